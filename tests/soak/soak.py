"""Clients that live through restarts of their server beside one pipeline after another, for long.

    python -m tests.soak.soak 60        # minutes

After each restart and each pipeline what there is of everything is counted: the descriptors,
threads, memory and mapped regions of this process, and what hermes has in /dev/shm. A table is
printed at the end, and the exit code is 1 if something grew or a pipeline failed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hermes._shared_memory import PREFIX
from hermes.aeriel.client import Endpoint, InferenceClient
from tests.chaos.chaos import ROOT, Run, prepare
from tests.helpers import some_ports

TRANSPORTS: tuple[Any, ...] = ("shm", "http", "grpc")
# Cycles in which caches fill.
WARM_UP = 3
# By how much a median may be larger in the last third than in the first: what comes and goes with
# the moment, and not with each of many restarts.
ALLOWED = {"descriptors": 4, "threads": 3, "memory (MiB)": 16, "mapped regions": 4, "/dev/shm": 0}

# A server that is killed with its process's next line of input.
SERVES = """
import os, signal, sys
from pathlib import Path
from hermes.aeriel.serve import Ports, serve
from tests.helpers import kill_server

ports = Ports(grpc=int(sys.argv[2]), http=int(sys.argv[3]), metrics=int(sys.argv[4]))
with serve(sys.argv[1], ports=ports, wait=True) as instance:
    print(instance.endpoint.grpc, instance.endpoint.http, flush=True)
    sys.stdin.readline()
    kill_server(instance)
"""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=60.0)
    arguments = parser.parse_args()
    prepare()
    samples: list[dict[str, float]] = []
    problems: list[str] = []
    for problem in soak(arguments.minutes * 60, samples.append):
        print(problem, flush=True)
        problems.append(problem)
    print(f"{len(samples)} restarts of {len(TRANSPORTS)} clients' server, and as many pipelines")
    print(table(samples))
    sys.exit(1 if problems or growing(samples) else 0)


def soak(seconds: float, sample: Callable[[dict[str, float]], None]) -> Iterator[str]:
    """Restart and run for so many seconds; yield what goes wrong."""
    deadline = time.monotonic() + seconds
    ports = list(map(str, vars(some_ports()).values()))
    with ExitStack() as stack:
        server = stack.enter_context(ExitStack())
        endpoint = server.enter_context(_served(ports))
        pool = stack.enter_context(ThreadPoolExecutor(len(TRANSPORTS)))
        clients = [
            stack.enter_context(InferenceClient(endpoint, "double", transport=transport))
            for transport in TRANSPORTS
        ]
        while time.monotonic() < deadline:
            ending = threading.Event()
            uses = [pool.submit(_use, client, ending) for client in clients]
            time.sleep(0.5)
            server.close()
            server.enter_context(_served(ports))
            time.sleep(0.5)
            ending.set()
            for transport, use in zip(TRANSPORTS, uses, strict=True):
                if error := use.exception():
                    yield f"{transport}: {error!r}"
            yield from _pipeline()
            sample(_counts())


def growing(samples: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the names of what grows, by the medians of the first and the last third."""
    return [
        name
        for name, allowed in ALLOWED.items()
        for first, last in [_first_and_last(samples, name)]
        if last > first + allowed
    ]


def table(samples: Sequence[Mapping[str, float]]) -> str:
    """Return a line for everything that was counted."""
    lines = [f"{'':<16} {'first third':>12} {'last third':>12} {'most':>8}"]
    for name in ALLOWED:
        first, last = _first_and_last(samples, name)
        most = max((each[name] for each in samples), default=0.0)
        verdict = "  grows" if name in growing(samples) else ""
        lines.append(f"{name:<16} {first:>12.0f} {last:>12.0f} {most:>8.0f}{verdict}")
    return "\n".join(lines)


def _first_and_last(samples: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    values = [each[name] for each in samples][WARM_UP:]
    third = -(-len(values) // 3)
    if not third:
        return 0.0, 0.0
    return statistics.median(values[:third]), statistics.median(values[-third:])


def _counts() -> dict[str, float]:
    """Return what there is when nothing is under way."""
    time.sleep(1.5)  # unused connections and threads end by themselves
    process = psutil.Process()
    regions = {each.path for each in process.memory_maps(grouped=False) if PREFIX in each.path}
    return {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "memory (MiB)": process.memory_info().rss / 2**20,
        "mapped regions": len(regions),
        "/dev/shm": len([each for each in Path("/dev/shm").iterdir() if PREFIX in each.name]),
    }


@contextmanager
def _served(ports: Sequence[str]) -> Iterator[Endpoint]:
    """Serve in another process, and kill the server in the end."""
    command = [sys.executable, "-c", SERVES, str(ROOT / "build" / "chaos" / "models"), *ports]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        grpc, http = process.stdout.readline().split()
        # Without the server's name, which is another one after a restart.
        yield Endpoint(grpc=grpc, http=http)
        process.communicate("\n")


def _use(client: InferenceClient, ending: threading.Event) -> None:
    batch = {"x": np.ones((8, 4), np.float32)}
    while not ending.is_set():
        for result in client.stream([batch] * 20):
            assert (result["y"] == 2).all()


def _pipeline() -> Iterator[str]:
    """Run a pipeline with a server of its own; yield what is wrong with it or left of it."""
    with tempfile.TemporaryDirectory(prefix="hermes-soak.") as directory:
        run = Run(directory=Path(directory), image=None)
        code = run.start().wait(240)
        if code:
            yield f"a pipeline ended with {code}: {(run.directory / 'results.log').read_text()}"
        else:
            yield from run.wrong()
        deadline = time.monotonic() + 10
        while (left := run.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield from (f"left: {each}" for each in left)


if __name__ == "__main__":
    main()
