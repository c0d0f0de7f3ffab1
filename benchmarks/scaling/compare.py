"""Predictions beside measurements: constants of one client and one server, then other points."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.scaling.calibrate import (
    CORES,
    CROWD,
    Bench,
    Constants,
    measure_constants,
    measure_requests,
    median_constants,
)
from benchmarks.scaling.commands import RUNS, Run, measure_start
from benchmarks.scaling.link import throttled_link
from benchmarks.scaling.measure import (
    IN_FLIGHT,
    Measured,
    Point,
    measure,
    serve_models,
    write_inputs,
)
from benchmarks.scaling.model import Costs, steady_rate
from hermes.aeriel.serve import TritonInstance

MODELS = ("sleeps", "computes", "nothing")
SERVERS_AND_CLIENTS = (
    (1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 4), (2, 8), (3, 3), (4, 4), (4, 8),
)  # fmt: skip
MOST_SERVERS = max(n for n, _ in SERVERS_AND_CLIENTS)
SERVERS_TO_CROWD = (CROWD.servers - 1) * CORES + 1  # one after the other gets the next core
LINKS = (5e6, 20e6)  # bytes per second


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was predicted for a point or a run, and what was measured."""

    what: str
    servers: int
    clients: int
    bound_by: str
    predicted: float
    measured: float
    unit: str

    @property
    def difference(self) -> float:
        """What was predicted, beyond what was measured, as a part of that."""
        return self.predicted / self.measured - 1


def compare(
    seconds: float,
    repeats: int,
    models: Sequence[str],
    on_comparison: Callable[[Comparison], object],
) -> Constants:
    """Measure constants, then points and runs, and return the constants.

    Parameters
    ----------
    seconds
        The length of each measurement.
    repeats
        How often those of this machine are made, all of them in turns; medians count. A machine
        that has other guests is faster at one time than at another.
    models
        Measure points and runs of these models.
    on_comparison
        Called with each comparison.
    """
    with TemporaryDirectory(prefix="hermes-scaling-") as scratch:
        directory = Path(scratch)
        write_inputs(directory)
        began = time.monotonic()
        with serve_models(directory, 1):
            server_start_s = time.monotonic() - began
        points = [point for point in local_points() if point.model in models]
        with serve_models(directory, max(MOST_SERVERS, SERVERS_TO_CROWD)) as instances:
            bench = _bench(directory, instances, seconds)
            found, rates = [], []
            for _ in range(repeats):
                found.append(measure_constants(bench))
                rates.append([bench(point).rows_per_s for point in points])
            constants = median_constants(found)
            shm = measure_start(constants.costs["shm"], directory)
            shm = replace(shm, server_start_s=server_start_s)
            costs = {name: _with_starts_of(shm, each) for name, each in constants.costs.items()}
            constants = replace(constants, costs=costs)
            for point, *of_point in zip(points, *rates, strict=True):
                on_comparison(_compare_point(constants, point, median(of_point)))
            for run in RUNS:
                if run.model in models:
                    on_comparison(_compare_run(constants, run, directory))
        if os.geteuid() != 0:
            print("links need root, for network namespaces: they are left out", file=sys.stderr)
            return constants
        for transport, insecure in (("http", True), ("grpc", False)):
            with _linked(directory, seconds, math.inf, insecure=insecure) as bench:
                point = Point(model="nothing", transport=transport)
                remote = measure_requests(bench, point, constants.service_s["sleeps"])
            costs[transport] = _with_starts_of(shm, remote)
        for bytes_per_s in LINKS:
            with _linked(directory, seconds, bytes_per_s, insecure=True) as bench:
                for point in linked_points():
                    if point.model in models:
                        rate = bench(point).rows_per_s
                        on_comparison(_compare_point(constants, point, rate, bytes_per_s))
    return constants


@contextmanager
def _linked(
    directory: Path, seconds: float, bytes_per_s: float, *, insecure: bool
) -> Iterator[Bench]:
    """Serve twice at one end of a link, and measure with clients at the other."""
    with (
        throttled_link(bytes_per_s) as link,
        serve_models(directory, 2, link.address, insecure=insecure) as instances,
    ):
        yield _bench(directory, instances, seconds, link.namespace)


def _bench(
    directory: Path, instances: Sequence[TritonInstance], seconds: float, namespace: str = ""
) -> Bench:
    def bench(point: Point) -> Measured:
        return measure(replace(point, namespace=namespace), instances, directory, seconds)

    return bench


def _with_starts_of(other: Costs, costs: Costs) -> Costs:
    return replace(
        costs, file_s=other.file_s, job_s=other.job_s, server_start_s=other.server_start_s
    )


def local_points() -> Iterator[Point]:
    """Yield the points whose clients and servers share this machine."""
    for model in MODELS:
        for n_servers, n_clients in SERVERS_AND_CLIENTS:
            yield Point(model=model, servers=n_servers, clients=n_clients)
    for n_clients in (1, 2, 4):
        yield Point(model="sleeps", clients=n_clients, in_flight=1)


def linked_points() -> Iterator[Point]:
    """Yield the points whose clients are behind a link."""
    for model, n_servers, n_clients in (
        ("sleeps", 1, 1), ("sleeps", 2, 4), ("nothing", 1, 1), ("nothing", 1, 4),
    ):  # fmt: skip
        yield Point(model=model, servers=n_servers, clients=n_clients, transport="http")


def _compare_point(
    constants: Constants, point: Point, rows_per_s: float, link: float = math.inf
) -> Comparison:
    predicted, bound_by = steady_rate(constants.setting(point, link))
    what = [f"model {point.model}"]
    if point.in_flight != IN_FLIGHT:
        what.append(f"{point.in_flight} request in flight")
    if not math.isinf(link):
        what.append(f"link of {link / 1e6:g} MB/s")
    return Comparison(
        what=", ".join(what),
        servers=point.servers,
        clients=point.clients,
        bound_by=bound_by,
        predicted=predicted,
        measured=rows_per_s,
        unit="rows/s",
    )


def _compare_run(constants: Constants, run: Run, directory: Path) -> Comparison:
    outcome = run.predict(constants.setting(Point(model=run.model, clients=run.clients)))
    killed = f", one killed after {run.killed_at_s:g} s" if run.killed_at_s else ""
    return Comparison(
        what=f"model {run.model}, {run.files} files of {run.rows_per_file} rows each{killed}",
        servers=1,
        clients=run.clients,
        bound_by=outcome.bound_by,
        predicted=outcome.seconds,
        measured=run.measure(directory),
        unit="s",
    )
