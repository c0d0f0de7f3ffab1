"""A run from its submission to its last row: jobs, servers, and hosts that are lost.

Between two events (a job sends its first request or ends, a server is ready, a host is lost) every
client streams at the constant rate that `fair_rates` gives it. `simulate` goes from one event to
the next.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

from benchmarks.scaling.model import Resource, Setting, fair_rates

# A job writes so often how far it has come: what a lost one did since is done again.
CHECKPOINT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run is to do: rows, in files of so many, in jobs of so many files."""

    rows: float
    rows_per_file: float
    files_per_job: int = 1

    def jobs(self) -> Iterator[float]:
        """Yield the rows of each job."""
        per_job = self.rows_per_file * self.files_per_job
        n_whole, rest = divmod(self.rows, per_job)
        yield from (per_job for _ in range(int(n_whole)))
        if rest:
            yield rest


# The hosts of what are lost.
Lost = Literal["servers", "clients"]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A host of servers or of clients that is lost at a time, and replaced.

    Parameters
    ----------
    at_s, back_s
        When, and after how many seconds another one can start what ran there.
    what, host
        Which host.
    """

    at_s: float
    what: Lost
    host: int = 0
    back_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run comes to.

    Parameters
    ----------
    seconds, rows_per_s
        From the submission to the last row, and the rows of the work divided by it.
    answered, again
        Rows that servers answered, and those of them that were answered before.
    shares
        The part of the clients' time that each kind of resource bounds them; ``"files"`` is that
        between two files, ``"start"`` that of waiting for jobs and servers, ``"idle"`` that without
        work.
    """

    seconds: float
    rows_per_s: float
    answered: float
    again: float
    shares: Mapping[str, float]

    @property
    def bound_by(self) -> str:
        """What bounds the clients for most of their time."""
        return max(self.shares, key=lambda name: self.shares[name])


@dataclass(frozen=True, kw_only=True)
class _Alone:
    """A client that shares nothing: what a row takes, what bounds it, and a row's part of a file.

    Between two files a client sends nothing. What else a row takes of its time is what it takes
    without others: while it waits for them, it does not lose that time to files.
    """

    demands: Mapping[Resource, float]
    bound_by: str
    file_s: float

    @classmethod
    def of(cls, setting: Setting, work: Work, client: int, server: int) -> _Alone:
        demands = setting.demands(client, server)
        [(rate, (bound_by, _))] = fair_rates([demands], setting.capacities())
        # The last answer is waited for: the first request of the next file comes after it.
        way_s = demands["in flight", client] * setting.rows_per_request
        file_s = setting.costs.file_s + max(0.0, way_s - setting.rows_per_request / rate)
        file_s /= work.rows_per_file
        own = {("files", client): 1 / rate + file_s}
        return cls(demands=demands | own, bound_by=bound_by, file_s=file_s)


@dataclass(kw_only=True)
class _Client:
    server: int
    rows: float = 0.0  # of its job
    left: float = 0.0  # of these, not answered
    ready_s: float = 0.0  # when its job sends its first request
    away_s: float = 0.0  # until when it can have no job
    rate: float = 0.0


def simulate(setting: Setting, work: Work, losses: Sequence[Loss] = ()) -> Outcome:
    """Return what a run comes to that starts its servers, and then jobs on its clients."""
    jobs = deque(work.jobs())
    clients = [_Client(server=setting.server_of(i)) for i in range(setting.clients)]
    of = cache(partial(_Alone.of, setting, work))
    capacities = setting.capacities() | {("files", i): 1.0 for i in range(setting.clients)}
    ready = [setting.costs.server_start_s] * setting.servers
    to_come = deque(sorted(losses, key=lambda loss: loss.at_s))
    now = answered = again = engine_s = 0.0
    shares: defaultdict[str, float] = defaultdict(float)
    while True:
        for client in clients:
            if not client.left and client.away_s <= now and jobs:
                client.rows = client.left = jobs.popleft()
                engine_s = max(now, engine_s) + 1 / setting.job_starts_per_s
                client.ready_s = engine_s + setting.costs.job_s
        busy = [client for client in clients if client.left]
        if not busy and not jobs:
            break
        up = [server for server, ready_s in enumerate(ready) if ready_s <= now]
        flowing = [i for i, c in enumerate(clients) if up and c.left and c.ready_s <= now]
        for client in clients:
            client.rate = 0.0
        # While its own server is lost, a client uses another one.
        using = [own if (own := clients[i].server) in up else up[i % len(up)] for i in flowing]
        alone = [of(i, server) for i, server in zip(flowing, using, strict=True)]
        bounds = fair_rates([each.demands for each in alone], capacities)
        for i, (rate, _) in zip(flowing, bounds, strict=True):
            clients[i].rate = rate
        times = [now + c.left / c.rate for c in clients if c.rate]
        times += [time for time in (*(c.ready_s for c in busy), *ready) if time > now]
        times += [c.away_s for c in clients if c.away_s > now and jobs]
        times += [max(now, loss.at_s) for loss in list(to_come)[:1]]
        began, now = now, min(times)
        took = now - began
        for each, (rate, (kind, _)) in zip(alone, bounds, strict=True):
            between_files = rate * each.file_s if kind == "files" else 0.0
            shares["files"] += took * between_files
            shares[each.bound_by if kind == "files" else kind] += took * (1 - between_files)
        shares["start"] += took * (len(busy) - len(flowing))
        shares["idle"] += took * (len(clients) - len(busy))
        for client in clients:
            ends = client.rate and began + client.left / client.rate <= now
            rows = client.left if ends else client.rate * took
            client.left -= rows
            answered += rows
        while to_come and to_come[0].at_s <= now:
            again += _lose(to_come.popleft(), setting, clients, ready, jobs, now)
    total = sum(shares.values())
    return Outcome(
        seconds=now,
        rows_per_s=work.rows / now,
        answered=answered,
        again=again,
        shares={kind: part / total for kind, part in shares.items() if part},
    )


def _lose(
    loss: Loss,
    setting: Setting,
    clients: Sequence[_Client],
    ready: list[float],
    jobs: deque[float],
    now: float,
) -> float:
    """Take a host away, and return how many rows are to be answered again."""
    back_s = now + loss.back_s
    again = 0.0
    for number, client in enumerate(clients):
        host = client.server % setting.server_hosts
        if loss.what == "clients":
            host = number % setting.client_hosts
        if host != loss.host:
            continue
        lost = float(setting.in_flight * setting.rows_per_request)
        if loss.what == "clients":
            lost += client.rate * CHECKPOINT_S
        lost = min(lost, client.rows - client.left) if client.left else 0.0
        again += lost
        client.left += lost
        if loss.what == "clients":
            if client.left:
                jobs.appendleft(client.left)
            client.left, client.away_s = 0.0, back_s
    if loss.what == "servers":
        for server in range(loss.host, setting.servers, setting.server_hosts):
            ready[server] = back_s + setting.costs.server_start_s
    return again
