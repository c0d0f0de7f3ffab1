"""What requests, files, commands and servers take, measured with one client and one server."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

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
# Of a client and a server that take turns on a core: a request takes more of its time.
CROWDED = "shm, one core"
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
    """

    costs: dict[str, Costs]
    service_s: dict[str, float]

    def setting(self, point: Point, link: float = math.inf) -> Setting:
        """Return a point as a setting of the flow model."""
        # Clients use the cores that are left by servers, where any are.
        crowded = point.transport == "shm" and point.servers >= CORES
        return Setting(
            costs=self.costs[CROWDED if crowded else point.transport],
            row_bytes=ROW_BYTES,
            rows_per_request=point.rows_per_request,
            in_flight=point.in_flight,
            instances=INSTANCES,
            service_s=self.service_s[point.model],
            compute_s=self.service_s[point.model] if point.model == "computes" else 0.0,
            servers=point.servers,
            server_hosts=min(point.servers, CORES),  # each is pinned to a core
            server_cores=1,
            clients=point.clients,
            shared_cores=CORES,
            client_link=link,
        )


def measure_models(run: Bench) -> dict[str, float]:
    """Return how long a request occupies an instance of each model, with all instances busy."""
    nothing = run(Point(model="nothing"))
    computes = run(Point(model="computes"))
    return {
        "nothing": 0.0,
        "sleeps": INSTANCES * _request_s(run(Point(model="sleeps"))),
        # What it takes of a processor, and would take of one that nobody else has.
        "computes": max(0.0, computes.server_s - nothing.server_s),
    }


def measure_requests(run: Bench, point: Point, sleeps_s: float) -> Costs:
    """Return what a request takes between clients and servers as a point has them."""
    few = run(point)
    many = run(replace(point, rows_per_request=MANY_ROWS))
    one_s = _request_s(run(replace(point, model="sleeps", in_flight=1)))
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
