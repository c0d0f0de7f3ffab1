"""What runs on this machine, and what it has: the answers of `hermes ps` and `hermes check`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hermes._processes import SHARED_MEMORY
from hermes._shared_memory import regions_of_the_dead
from hermes.aeriel.serve import Ports
from hermes.aeriel.serve._gpus import job_gpus, order_doubt, undivided, unusable
from hermes.aeriel.serve._leases import gpu_holders
from hermes.aeriel.serve._nvml import list_gpus, why_no_gpu
from hermes.aeriel.serve._ports import check_free
from hermes.aeriel.supervise import ServerState
from hermes.errors import HermesError, PortInUseError
from hermes.runtime import find_triton

VERSION_TIMEOUT_S = 20.0
# What each extra is for, and a module that it brings.
EXTRAS = {
    "report": ("jinja2", "reports as pages"),
    "tls": ("cryptography", "servers that clients on other hosts reach"),
    "demo": ("skl2onnx", "the digits example"),
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server of this user.

    Parameters
    ----------
    id
        What `hermes stop` knows it by.
    phase, detail
        What it is at, and what it waits for.
    endpoint
        Its GRPC address, when it is ready.
    model_repository, image, gpus
        What it serves, from where and on which GPUs.
    drivers
        The ids of the processes that run pipelines with it.
    consumers, running
        How many tasks need it still, and how many of those run.
    age_s
        Seconds since the process started that keeps it.
    log
        The server's log, by default.
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
            self.endpoint or "-",
            ",".join(self.gpus) or "-",
            ",".join(map(str, self.drivers)) or "-",
            f"{self.running}/{self.consumers}",
            f"{self.age_s:.0f} s",
            self.model_repository,
        )


HEADER = ("ID", "STATE", "ENDPOINT", "GPUS", "DRIVERS", "RUNNING", "AGE", "MODELS")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing about this machine.

    Parameters
    ----------
    subject, text
        What about what.
    is_missing
        Whether some feature does not work without it.
    """

    subject: str
    text: str
    is_missing: bool = False


def short_id(state: ServerState) -> str:
    """Return what tells a server's id from the others."""
    return state.server_id.removeprefix("hermes-")


def list_servers(home: Path) -> list[Server]:
    """Return the servers whose owners live."""
    found = []
    for state in ServerState.all(home):
        owner, status = state.owner(), state.status()
        if owner is None:
            continue
        endpoint = state.endpoint()
        consumers = state.consumers()
        leases = [lease for each in consumers.values() for lease in each]
        found.append(
            Server(
                id=short_id(state),
                phase="starting" if status is None else status.phase,
                detail="" if status is None else status.detail,
                endpoint=None if endpoint is None else endpoint.grpc,
                model_repository="" if status is None else status.model_repository,
                image="" if status is None else status.image,
                gpus=() if status is None else status.gpus,
                drivers=tuple(driver.pid for driver in consumers),
                consumers=len(leases),
                running=sum(lease.is_running for lease in leases),
                age_s=round(owner.age_s(), 1),
                log=str(state.log_file),
            )
        )
    return found


def as_table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def machine_facts() -> Iterator[Fact]:
    """Yield what this machine has, and what is missing for which feature."""
    yield Fact(subject="python", text=f"{sys.version.split()[0]}, {sys.executable}")
    yield _triton()
    yield from _runtimes()
    yield from _gpus()
    yield from _ports()
    yield from _shared_memory()
    for extra, (module, purpose) in EXTRAS.items():
        is_missing = importlib.util.find_spec(module) is None
        text = f"pip install 'hermes-aeriel[{extra}]' for {purpose}" if is_missing else "installed"
        yield Fact(subject=f"extra {extra}", text=text, is_missing=is_missing)


def _triton() -> Fact:
    try:
        triton = find_triton()
    except HermesError as error:
        return Fact(subject="triton", text=f"{error}", is_missing=True)
    return Fact(subject="triton", text=f"{triton.binary}, from {triton.source}")


def _runtimes() -> Iterator[Fact]:
    found = [(name, path) for name in ("singularity", "apptainer") if (path := shutil.which(name))]
    for name, path in found:
        yield Fact(subject=name, text=f"{_first_line(path, '--version')}, {path}")
    if not found:
        text = "neither singularity nor apptainer; needed to serve from an image (--image)"
        yield Fact(subject="container", text=text, is_missing=True)


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run ({error})"
    return next(iter(done.stdout.splitlines()), f"does not run (exit code {done.returncode})")


def _gpus() -> Iterator[Fact]:
    gpus = list_gpus()
    if not gpus:
        reason = why_no_gpu() or "no GPU can be used here"
        yield Fact(subject="gpu", text=f"{reason}: models run on the CPU, whatever --gpus says")
        return
    units = undivided(gpus)
    holders = gpu_holders(units)
    for gpu in units:
        state = str(holders.get(gpu.uuid, "free"))
        if gpu.used_by is not None and gpu.uuid not in holders:
            state = f"in use by {gpu.used_by}"
        yield Fact(subject=f"gpu {gpu.index}", text=f"{gpu.model} {gpu.uuid}: {state}")
        if (problem := unusable(gpu, os.environ)) is not None:
            yield Fact(subject=f"gpu {gpu.index}", text=problem, is_missing=True)
    allowed = job_gpus(gpus, os.environ)
    if allowed is not None:
        job = ", ".join(map(str, allowed)) or "none"
        yield Fact(subject="gpu", text=f"this batch job has {job}")
    if (doubt := order_doubt(gpus, os.environ)) is not None:
        yield Fact(subject="gpu", text=doubt)


def _ports() -> Iterator[Fact]:
    for service, port in vars(Ports()).items():
        try:
            check_free("127.0.0.1", port, service)
        except PortInUseError:
            text = 'in use; give others, or ask for free ones (--ports=auto, ports="auto")'
        except HermesError as error:
            text = str(error)
        else:
            text = "free"
        yield Fact(subject=f"port {port}", text=f"{service}: {text}")


def _shared_memory() -> Iterator[Fact]:
    usage = shutil.disk_usage(SHARED_MEMORY)
    size = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free"
    small = usage.total < 256e6
    text = f"{size}; Python models and large tensors want more" if small else size
    yield Fact(subject=str(SHARED_MEMORY), text=text, is_missing=small)
    for region in regions_of_the_dead():
        yield Fact(subject=str(region), text="left by a process that is gone; it can be removed")
