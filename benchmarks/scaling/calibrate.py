"""What requests, files, commands and servers take, measured with one client and one server."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median

from benchmarks.scaling.measure import (
    INSTANCES,
    MANY_ROWS,
    ROW_BYTES,
    ROWS_PER_REQUEST,
    Measured,
    Point,
)
from benchmarks.scaling.model import Costs, Setting

CORES = len(os.sched_getaffinity(0))
# Of processes that take turns on a core, while all other cores are busy too: a request takes more
# of its time. So many servers and clients are measured.
CROWDED = "shm, crowded"
CROWD = Point(model="nothing", servers=2, clients=4, on_one_core=True)
Bench = Callable[[Point], Measured]


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What was measured with one client and one server.

    Parameters
    ----------
    costs
        By transport; `CROWDED` where servers leave no core to clients.
    service_s
        By model: how long it takes for a request.
    crowded_compute_s
        How long the model that computes takes where all cores are busy.
    """

    costs: dict[str, Costs]
    service_s: dict[str, float]
    crowded_compute_s: float

    def setting(self, point: Point, link: float = math.inf) -> Setting:
        """Return a point as a setting of the flow model."""
        # Clients use the cores that are left by servers, where any are.
        crowded = point.transport == "shm" and point.servers >= CORES
        service_s = self.service_s[point.model]
        costs = self.costs[point.transport]
        if crowded:
            costs = _between(costs, self.costs[CROWDED], _crowding(point, CORES))
        if crowded and point.model == "computes":
            service_s = self.crowded_compute_s
        return Setting(
            costs=costs,
            row_bytes=ROW_BYTES,
            rows_per_request=point.rows_per_request,
            in_flight=point.in_flight,
            instances=INSTANCES,
            service_s=service_s,
            compute_s=service_s if point.model == "computes" else 0.0,
            servers=point.servers,
            server_hosts=min(point.servers, CORES),  # each is pinned to a core
            server_cores=1,
            clients=point.clients,
            shared_cores=CORES,
            client_link=link,
        )


def _crowding(point: Point, cores: int) -> float:
    """Return 0 where a server has a core to itself, 1 for `CROWD`."""
    alone, crowd = (_left_by_another(each, 1) for each in (Point(model="", clients=0), CROWD))
    return (_left_by_another(point, cores) - alone) / (crowd - alone)


def _left_by_another(point: Point, cores: int) -> float:
    """Return how often what a core's caches hold is that of another of the processes there."""
    processes = point.servers * (1 + INSTANCES) + point.clients
    return 1 - cores / processes


def _between(one: Costs, other: Costs, part: float) -> Costs:
    """Return costs that are one's, plus a part of the way to the other's."""
    to = asdict(other)
    return Costs(**{name: s + part * (to[name] - s) for name, s in asdict(one).items()})


def measure_constants(run: Bench) -> Constants:
    """Return the constants of clients and servers of one machine."""
    alone = Point(model="nothing")
    sleeps_s = INSTANCES * _request_s(run(replace(alone, model="sleeps")))
    shm, crowded = (measure_requests(run, point, sleeps_s) for point in (alone, CROWD))
    compute_s = _measure_compute(run, alone, shm)
    return Constants(
        costs={"shm": shm, CROWDED: crowded},
        service_s={"nothing": 0.0, "sleeps": sleeps_s, "computes": compute_s},
        crowded_compute_s=_measure_compute(run, CROWD, crowded),
    )


def median_constants(found: Sequence[Constants]) -> Constants:
    """Return the medians of constants that were measured several times."""
    return Constants(
        costs={
            name: Costs(**_medians([asdict(one.costs[name]) for one in found]))
            for name in found[0].costs
        },
        service_s=_medians([one.service_s for one in found]),
        crowded_compute_s=median(one.crowded_compute_s for one in found),
    )


def _medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(one[name] for one in found) for name in found[0]}


def _measure_compute(run: Bench, point: Point, costs: Costs) -> float:
    """Return what a request takes of a processor in the model that computes."""
    computes = run(replace(point, model="computes"))
    return max(0.0, computes.server_s - costs.server_s(ROWS_PER_REQUEST * ROW_BYTES))


def measure_requests(run: Bench, point: Point, sleeps_s: float) -> Costs:
    """Return what a request takes between clients and servers as a point has them."""
    few = run(point)
    many = run(replace(point, rows_per_request=MANY_ROWS))
    one_s = _request_s(run(replace(point, model="sleeps", in_flight=1, servers=1, clients=1)))
    return Costs(
        **_line("client", few.client_s, many.client_s),
        **_line("server", few.server_s, many.server_s),
        wait_s=max(0.0, one_s - sleeps_s - few.client_s - few.server_s),
    )


def _request_s(measured: Measured) -> float:
    return ROWS_PER_REQUEST / measured.rows_per_s


def _line(name: str, few_s: float, many_s: float) -> dict[str, float]:
    """Return seconds per request and per byte, from two numbers of rows in a request."""
    per_byte = max(0.0, (many_s - few_s) / ((MANY_ROWS - ROWS_PER_REQUEST) * ROW_BYTES))
    return {
        f"{name}_s_per_request": max(0.0, few_s - per_byte * ROWS_PER_REQUEST * ROW_BYTES),
        f"{name}_s_per_byte": per_byte,
    }
