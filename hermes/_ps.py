"""The servers of this user, as `hermes ps` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes._directory import Status
from hermes.aeriel import supervise
from hermes.aeriel.serve._gpu_locks import printable


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server of this user.

    Parameters
    ----------
    id
        The server's id, as `hermes stop` takes it.
    phase, detail
        Its state, and what it waits for.
    endpoint
        Its GRPC address, when it is ready.
    model_repository, image, gpus
        What it serves, its container image and its GPUs.
    drivers
        The ids of the processes that run pipelines with it.
    consumers, running
        The number of tasks that still need it, and how many of them run.
    age_s
        Seconds since its owner started.
    log
        The default path of the server's log.
    """

    id: str
    phase: str
    detail: str
    endpoint: str | None
    model_repository: str
    image: str
    gpus: tuple[str, ...]
    drivers: tuple[int, ...]
    consumers: int
    running: int
    age_s: float
    log: str

    def row(self) -> tuple[str, ...]:
        """Return the server as a line of a table."""
        return (
            self.id,
            self.phase,
            ",".join(self.gpus) or "-",
            f"{self.running}/{self.consumers}",
            f"{self.age_s:.0f} s",
            self.model_repository,
            ",".join(map(str, self.drivers)) or "-",
            self.endpoint or "-",
        )


# The longest last: a narrow terminal cuts them.
HEADER = ("ID", "STATE", "GPUS", "RUNNING", "AGE", "MODELS", "DRIVERS", "ENDPOINT")


def short_id(state: supervise.ServerState) -> str:
    """Return a server's id without the part that all ids share."""
    return state.server_id.removeprefix("hermes-")


def list_servers(home: Path) -> list[Server]:
    """Return the servers whose owners run."""
    found = []
    for state in supervise.ServerState.all(home):
        owner = state.owner()
        if owner is None:
            continue
        status = state.status() or Status(phase="starting")
        endpoint = state.endpoint()
        consumers = state.consumers()
        leases = [lease for each in consumers.values() for lease in each]
        found.append(
            Server(
                id=short_id(state),
                **vars(status),
                endpoint=None if endpoint is None else endpoint.grpc,
                drivers=tuple(driver.pid for driver in consumers),
                consumers=len(leases),
                running=sum(lease.is_running for lease in leases),
                age_s=round(owner.age_s(), 1),
                log=str(state.log_file),
            )
        )
    return found


def as_text(servers: Sequence[Server]) -> str:
    """Return servers as a table, and below it what some of them wait for."""
    table = _as_table([HEADER, *(server.row() for server in servers)])
    waiting = [f"\n{server.id} waits: {server.detail}" for server in servers if server.detail]
    return "\n".join([table, *waiting])


def _as_table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as lines with aligned columns; a `?` for what cannot be printed."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
