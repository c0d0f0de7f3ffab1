"""A year of two detectors over 100 time slides on 1, 8 and 64 GPUs, and the loss of a host."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.scaling.constants import load
from benchmarks.scaling.model import Setting
from benchmarks.scaling.simulation import Loss, Lost, Outcome, Work, simulate

YEAR_S = 365.25 * 86400
N_SLIDES = 100
RATE_HZ, N_DETECTORS, SAMPLE_BYTES = 4096, 2, 4
FILE_S = 4096  # of data in a file
FILES_PER_JOB = 8
ROWS_PER_REQUEST = 256
GPUS_PER_HOST = 8
TITLES = (
    "rows/s of a GPU", "GPUs", "hosts of the clients", "hours", "rows/s", "bound by",
    "a host of clients is lost", "a host of servers is lost",
)  # fmt: skip
BACK_S = 120.0  # until the engine has started what was lost on another host


@dataclass(frozen=True, kw_only=True)
class Plan:
    """GPUs, and where the clients are: on the servers' hosts, or behind links of bytes/s."""

    gpus: int
    gpu_rows_per_s: float
    link: float = math.inf

    @property
    def setting(self) -> Setting:
        """What the flow model takes: a server and eight clients on each host, or fewer."""
        hosts = math.ceil(self.gpus / GPUS_PER_HOST)
        per_host = min(self.gpus, GPUS_PER_HOST)
        row_bytes = RATE_HZ * N_DETECTORS * SAMPLE_BYTES
        return Setting(
            costs=load()["shm" if math.isinf(self.link) else "grpc"],
            row_bytes=row_bytes,
            answer_bytes=4,
            read_bytes=row_bytes / N_SLIDES,  # later slides are read from the kernel's cache
            rows_per_request=ROWS_PER_REQUEST,
            in_flight=per_host + 2,
            instances=per_host,
            service_s=ROWS_PER_REQUEST / self.gpu_rows_per_s,
            servers=hosts,
            server_hosts=hosts,
            clients=hosts * max(4, per_host),
            client_hosts=hosts,
            server_link=self.link,
            client_link=self.link,
        )


def year() -> Work:
    """Return the work: windows of a second, one after the other, in every slide."""
    return Work(
        rows=YEAR_S * N_SLIDES, rows_per_file=FILE_S, files_per_job=N_SLIDES * FILES_PER_JOB
    )


def plans() -> Iterator[Plan]:
    """Yield the plans of the table."""
    for rate in (1e3, 1e4, 1e5):
        for gpus in (1, 8, 64):
            for link in (math.inf, 1.25e9):
                yield Plan(gpus=gpus, gpu_rows_per_s=rate, link=link)


def rows() -> Iterator[list[str]]:
    """Yield the cells of each plan: `TITLES` says what they are."""
    for plan in plans():
        setting = plan.setting
        whole = simulate(setting, year())
        yield [
            f"{plan.gpu_rows_per_s:,.0f}",
            str(plan.gpus),
            "the same" if math.isinf(plan.link) else f"others, {8 * plan.link / 1e9:g} Gbit/s",
            f"{whole.seconds / 3600:,.1f}",
            f"{whole.rows_per_s:,.0f}",
            whole.bound_by,
            _loss(setting, whole, "clients"),
            _loss(setting, whole, "servers"),
        ]


def _loss(setting: Setting, whole: Outcome, what: Lost) -> str:
    loss = Loss(at_s=whole.seconds / 2, what=what, back_s=BACK_S)
    lost = simulate(setting, year(), [loss])
    return f"{lost.seconds - whole.seconds:.0f} s, {lost.again:,.0f} rows"
