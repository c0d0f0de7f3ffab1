"""A link of a given bandwidth between this network namespace and one of its own, as root."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

# What a full Ethernet frame carries for TCP, with its time stamps, and what it takes on a link as
# Linux counts it.
PAYLOAD = 1448 / 1514


@dataclass(frozen=True, kw_only=True)
class Link:
    """Two ends of a link.

    Parameters
    ----------
    namespace
        The name of the network namespace at the far end.
    address
        The address of this end, in this namespace.
    bytes_per_s
        What the link carries of TCP's data.
    """

    namespace: str
    address: str
    bytes_per_s: float


@contextmanager
def throttled_link(bytes_per_s: float) -> Iterator[Link]:
    """Make a link, and remove it at the end of the block; an infinite one is as fast as memory.

    Raises
    ------
    subprocess.CalledProcessError
        This process may not make namespaces, or the kernel has no token bucket (``sch_tbf``).
    """
    name = f"hermes{os.getpid()}"
    here = f"{name}h"
    network = f"10.213.{os.getpid() % 250}"
    inside = ("ip", "netns", "exec", name)
    with ExitStack() as stack:
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "del", name)  # and the link with it
        _run("ip", "link", "add", here, "type", "veth", "peer", "eth0", "netns", name)
        _run("ip", "address", "add", f"{network}.1/24", "dev", here)
        _run("ip", "link", "set", here, "up")
        _run(*inside, "ip", "address", "add", f"{network}.2/24", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        _run(*inside, "ip", "link", "set", "lo", "up")
        if not math.isinf(bytes_per_s):
            bucket = _bucket(bytes_per_s)
            _run(*inside, "tc", "qdisc", "add", "dev", "eth0", *bucket)
            _run("tc", "qdisc", "add", "dev", here, *bucket)
        yield Link(namespace=name, address=f"{network}.1", bytes_per_s=bytes_per_s)


def _bucket(bytes_per_s: float) -> tuple[str, ...]:
    # The queue holds what a client has in flight: TCP is slower where one that is too short drops.
    rate = f"{round(8 * bytes_per_s / PAYLOAD)}bit"
    return ("root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
