"""What bounds clients that share servers, links and a file system: a flow model.

Every request of a client takes some of each resource on its way: processor time of the client and
the server, time of a model's instance, bytes of a link and of the file system, and a place among
the requests in flight. A resource gives so much of it each second. `fair_rates` shares them out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# A kind of resource, and which of them.
Resource = tuple[str, int]
# Resources that are used up at rates closer than this are used up together.
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What this code takes, in seconds, with one of the ways that tensors travel.

    Parameters
    ----------
    client_s_per_request, client_s_per_byte
        Processor time of a client, for a request and for each byte of its inputs; reading the
        file is part of it.
    server_s_per_request, server_s_per_byte
        Processor time of the server, without that of the model.
    wait_s
        What a request takes besides these and the model: wake-ups, and the way there and back.
    file_s
        A file, on the clock, besides its rows.
    job_s, server_start_s
        From the start of a job to its first request, and of a server until it is ready.
    """

    client_s_per_request: float = 0.0
    client_s_per_byte: float = 0.0
    server_s_per_request: float = 0.0
    server_s_per_byte: float = 0.0
    wait_s: float = 0.0
    file_s: float = 0.0
    job_s: float = 0.0
    server_start_s: float = 0.0

    def client_s(self, n_bytes: float) -> float:
        """Return the processor time of a client for a request of so many bytes."""
        return self.client_s_per_request + n_bytes * self.client_s_per_byte

    def server_s(self, n_bytes: float) -> float:
        """Return the processor time of the server for a request of so many bytes."""
        return self.server_s_per_request + n_bytes * self.server_s_per_byte


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The parts of a run, and what each can do.

    Parameters
    ----------
    costs
        What the code takes.
    row_bytes, answer_bytes, read_bytes
        Bytes of a row as it is sent, of its answer, and as it is read from the file system.
    rows_per_request, in_flight
        Rows of a request, and requests that a client has under way at most.
    instances, service_s, compute_s
        Instances of the model in a server; how long a request occupies one of them, in seconds;
        how much of that is time of the server's processors.
    servers, server_hosts, server_cores
        Servers, the hosts that they are spread over, and the cores of a host for its servers.
    clients, client_hosts
        Clients, and the hosts that they are spread over. Client i uses server i modulo `servers`.
    shared_cores
        Cores that all clients and servers share, where they run on one machine.
    server_link, client_link
        Bytes per second of the network at a host.
    file_system
        Bytes per second that all clients read and write together.
    job_starts_per_s
        How many jobs the engine starts in a second.
    """

    costs: Costs = field(default_factory=Costs)
    row_bytes: float = 0.0
    answer_bytes: float = 0.0
    read_bytes: float = 0.0
    rows_per_request: int = 1
    in_flight: int = 1
    instances: int = 1
    service_s: float = 0.0
    compute_s: float = 0.0
    servers: int = 1
    server_hosts: int = 1
    server_cores: float = math.inf
    clients: int = 1
    client_hosts: int = 1
    shared_cores: float = math.inf
    server_link: float = math.inf
    client_link: float = math.inf
    file_system: float = math.inf
    job_starts_per_s: float = math.inf

    def server_of(self, client: int) -> int:
        """Return the server that a client uses."""
        return client % self.servers

    def capacities(self) -> dict[Resource, float]:
        """Return what each resource gives in a second."""
        return {
            **{("client", i): 1.0 for i in range(self.clients)},
            **{("in flight", i): float(self.in_flight) for i in range(self.clients)},
            **{("model", i): float(self.instances) for i in range(self.servers)},
            **{("server", i): self.server_cores for i in range(self.server_hosts)},
            **{("network", i): self.server_link for i in range(self.server_hosts)},
            **{("network", -1 - i): self.client_link for i in range(self.client_hosts)},
            ("cores", 0): self.shared_cores,
            ("file system", 0): self.file_system,
        }

    def demands(self, client: int, server: int | None = None) -> dict[Resource, float]:
        """Return what a row of a client takes of each resource, with its own or another server."""
        costs, n_bytes = self.costs, self.rows_per_request * self.row_bytes
        sending, serving = costs.client_s(n_bytes), costs.server_s(n_bytes)
        # A link carries as much in one direction as in the other.
        carried = max(n_bytes, self.rows_per_request * self.answer_bytes)
        slowest = min(self.server_link, self.client_link)
        way = sending + serving + costs.wait_s + self.service_s + carried / slowest
        server = self.server_of(client) if server is None else server
        request = {
            ("client", client): sending,
            ("in flight", client): way,
            ("model", server): self.service_s,
            ("server", server % self.server_hosts): serving + self.compute_s,
            ("network", server % self.server_hosts): carried,
            ("network", -1 - client % self.client_hosts): carried,
            ("cores", 0): sending + serving + self.compute_s,
            ("file system", 0): self.rows_per_request * (self.read_bytes + self.answer_bytes),
        }
        return {name: amount / self.rows_per_request for name, amount in request.items()}


def fair_rates(
    demands: Sequence[Mapping[Resource, float]], capacities: Mapping[Resource, float]
) -> list[tuple[float, Resource]]:
    """Return for each client its rows per second, and the resource that bounds it.

    All grow alike until a resource is used up; those who use it stay at that, and the others go
    on (max-min fairness, by progressive filling).

    Raises
    ------
    ValueError
        Nothing bounds a client.
    """
    names = list(capacities)
    number = {name: i for i, name in enumerate(names)}
    taken = [(i, number[name], n) for i, one in enumerate(demands) for name, n in one.items() if n]
    client, resource = np.array([entry[:2] for entry in taken], int).reshape(-1, 2).T
    amount = np.array([entry[2] for entry in taken], float)
    left = np.array(list(capacities.values()), float)
    growing = np.ones(len(demands), bool)
    rates, bounds = np.zeros(len(demands)), np.zeros(len(demands), int)
    while growing.any():
        takes = growing[client]
        load = np.bincount(resource[takes], amount[takes], len(left))
        steps = np.divide(left, load, out=np.full(len(left), np.inf), where=load > 0)
        step = steps.min()
        if np.isinf(step):
            raise ValueError("nothing bounds the rate of a client")
        left = np.maximum(0.0, left - step * load)
        rates[growing] += step
        full = takes & (steps <= step + TOLERANCE * rates.max())[resource]
        bounds[client[full]] = resource[full]
        growing[client[full]] = False
    return [(float(rate), names[bound]) for rate, bound in zip(rates, bounds, strict=True)]


def steady_rate(setting: Setting) -> tuple[float, str]:
    """Return the rows per second of a run in which all clients stream, and what bounds most."""
    demands = [setting.demands(client) for client in range(setting.clients)]
    rates = fair_rates(demands, setting.capacities())
    bounds = Counter(bound[0] for _, bound in rates)
    return sum(rate for rate, _ in rates), bounds.most_common(1)[0][0]
