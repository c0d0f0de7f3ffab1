"""Predictions beside measurements: constants of one client and one server, then other points."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.scaling.link import throttled_link
from benchmarks.scaling.measure import (
    INSTANCES,
    MANY_ROWS,
    ROW_BYTES,
    ROWS_PER_REQUEST,
    SLEEP_S,
    Measured,
    Point,
    measure,
    serve_models,
    write_inputs,
)
from benchmarks.scaling.model import Costs, Setting, steady_rate

CORES = len(os.sched_getaffinity(0))
MODELS = ("sleeps", "computes", "nothing")
TRANSPORTS = ("shm", "http")
SERVERS_AND_CLIENTS = (
    (1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (2, 8), (3, 3), (4, 4), (4, 8),
)  # fmt: skip
LINKS = (5e6, 20e6)  # bytes per second


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What was measured with one client and one server.

    Parameters
    ----------
    costs
        By transport.
    service_s, compute_s
        By model: how long a request takes, and how much of that is processor time.
    """

    costs: dict[str, Costs]
    service_s: dict[str, float]
    compute_s: dict[str, float]

    def setting(self, point: Point, link: float = math.inf) -> Setting:
        """Return a point as a setting of the flow model."""
        return Setting(
            costs=self.costs[point.transport],
            row_bytes=ROW_BYTES,
            rows_per_request=point.rows_per_request,
            in_flight=point.in_flight,
            instances=INSTANCES,
            service_s=self.service_s[point.model],
            compute_s=self.compute_s[point.model],
            servers=point.servers,
            server_hosts=min(point.servers, CORES),  # each is pinned to a core
            server_cores=1,
            clients=point.clients,
            shared_cores=CORES,
            client_link=link,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A point, with what was predicted and what was measured."""

    point: Point
    link: float
    bound_by: str
    predicted: float
    measured: float

    @property
    def difference(self) -> float:
        """What was predicted, beyond what was measured, as a part of that."""
        return self.predicted / self.measured - 1


def compare(
    seconds: float, points: str, on_comparison: Callable[[Comparison], object]
) -> Constants:
    """Measure the constants, then other points, each for some seconds."""
    with TemporaryDirectory(prefix="hermes-scaling-") as scratch:
        directory = Path(scratch)
        write_inputs(directory)
        n_servers = max(n for n, _ in SERVERS_AND_CLIENTS)
        with serve_models(directory, n_servers) as instances:

            def run(point: Point) -> Measured:
                return measure(point, instances, directory, seconds)

            constants = measure_constants(run)
            for point in local_points():
                if points in point.model:
                    on_comparison(_comparison(constants, point, run(point)))
        if os.geteuid() != 0:
            print("a link needs root: those points are left out", file=sys.stderr)
            return constants
        for bytes_per_s in LINKS:
            with (
                throttled_link(bytes_per_s) as link,
                serve_models(directory, 2, link.address) as instances,
            ):
                for point in linked_points(link.namespace):
                    if points in point.model:
                        measured = measure(point, instances, directory, seconds)
                        on_comparison(_comparison(constants, point, measured, bytes_per_s))
    return constants


def measure_constants(run: Callable[[Point], Measured]) -> Constants:
    """Measure what requests take, with one client and one server."""
    few = {name: run(Point(model="nothing", transport=name)) for name in TRANSPORTS}
    many = {
        name: run(Point(model="nothing", transport=name, rows_per_request=MANY_ROWS))
        for name in TRANSPORTS
    }
    one = {name: run(Point(model="sleeps", transport=name, in_flight=1)) for name in TRANSPORTS}
    busy_s = INSTANCES * _request_s(run(Point(model="sleeps")))
    costs = {
        name: Costs(
            **_line("client", few[name].client_s, many[name].client_s),
            **_line("server", few[name].server_s, many[name].server_s),
            instance_s=max(0.0, busy_s - SLEEP_S),
            wait_s=max(
                0.0, _request_s(one[name]) - few[name].client_s - few[name].server_s - SLEEP_S
            ),
        )
        for name in TRANSPORTS
    }
    computes_s = SLEEP_S + _request_s(run(Point(model="computes", in_flight=1)))
    computes_s -= _request_s(one["shm"])
    return Constants(
        costs=costs,
        service_s={"nothing": 0.0, "sleeps": SLEEP_S, "computes": computes_s},
        compute_s={"nothing": 0.0, "sleeps": 0.0, "computes": computes_s},
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


def local_points() -> Iterator[Point]:
    """Yield the points whose clients and servers share this machine."""
    for model in MODELS:
        for n_servers, n_clients in SERVERS_AND_CLIENTS:
            yield Point(model=model, servers=n_servers, clients=n_clients)
    for n_clients in (1, 2, 4):
        yield Point(model="sleeps", clients=n_clients, in_flight=1)


def linked_points(namespace: str) -> Iterator[Point]:
    """Yield the points whose clients are behind a link."""
    for model, n_servers, n_clients in (
        ("sleeps", 1, 1), ("sleeps", 2, 4), ("nothing", 1, 1), ("nothing", 1, 4),
    ):  # fmt: skip
        yield Point(
            model=model, servers=n_servers, clients=n_clients, transport="http",
            namespace=namespace,
        )  # fmt: skip


def _comparison(
    constants: Constants, point: Point, measured: Measured, link: float = math.inf
) -> Comparison:
    predicted, bound_by = steady_rate(constants.setting(point, link))
    return Comparison(
        point=point,
        link=link,
        bound_by=bound_by,
        predicted=predicted,
        measured=measured.rows_per_s,
    )
