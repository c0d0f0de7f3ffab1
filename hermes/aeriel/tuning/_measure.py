"""How fast a served model is with the real client and the real data."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from hermes._processes import server_processes
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import InferenceOptions, pass_rows
from hermes.aeriel.tuning._settings import Settings

# The first answers are slower: memory is taken, and kernels are chosen.
WARM_UP = 0.25


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured with some settings.

    Attributes
    ----------
    settings
        The settings.
    rows_per_s
        Rows of the files per second.
    memory_bytes
        The memory of the server's processes afterwards; what they share is counted once.
    gpu_memory_bytes
        The memory in use on the server's GPUs; None where it has none.
    problem
        Why nothing could be measured; empty where it was.
    """

    settings: Settings
    rows_per_s: float = 0.0
    memory_bytes: int = 0
    gpu_memory_bytes: int | None = None
    problem: str = ""


def measure_rows(
    endpoint: Endpoint,
    inputs: Sequence[Sequence[Path]],
    options: InferenceOptions,
    settings: Settings,
    *,
    seconds: float,
) -> float:
    """Return the rows per second of a client that reads the inputs again and again.

    Raises
    ------
    DataError, InferenceError, ParameterError
        The files do not fit the model, or a request failed.
    """
    given = replace(options, batch_size=settings.batch_size, max_in_flight=settings.in_flight)
    with InferenceClient(endpoint, **given.client()) as client:
        begun, since, n_rows = time.monotonic(), 0.0, 0
        for files in itertools.cycle(inputs):
            for which, _ in pass_rows(client, files, given):
                now = time.monotonic()
                if since:
                    n_rows += len(which)
                    # Answers may come several at once: they are as fast as the whole time says.
                    if now - since >= seconds:
                        return n_rows / (now - since)
                elif now - begun >= seconds * WARM_UP:
                    since = now  # the request that ends the warm-up is not counted
    raise AssertionError  # pragma: no cover (the loop has no other end)


def memory_bytes(server_id: str) -> int:
    """Return the memory of a server's processes, in which what they share is counted once."""
    total = 0
    for pid in server_processes(server_id):
        with suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total


def gpu_memory_bytes(monitor: Path) -> int | None:
    """Return the memory that is in use on GPUs, as the last sample of a monitor's table has it."""
    by_gpu: dict[str, int] = {}
    with suppress(OSError), monitor.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "gpu" and row["memory_used_bytes"]:
                by_gpu[row["name"]] = int(float(row["memory_used_bytes"]))
    return sum(by_gpu.values()) if by_gpu else None
