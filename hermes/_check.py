"""What this machine offers hermes and what is missing, as `hermes check` shows it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hermes.aeriel
from hermes._captured import run_captured
from hermes._processes import SHARED_MEMORY, Host
from hermes._shared_memory import regions_of_the_dead
from hermes.aeriel._ml4gw import other_package
from hermes.aeriel.serve import Ports
from hermes.aeriel.serve._gpu_names import job_gpus, order_doubt, undivided
from hermes.aeriel.serve._gpus import unusable
from hermes.aeriel.serve._leases import gpu_holders
from hermes.aeriel.serve._nvml import list_gpus, why_no_gpu
from hermes.aeriel.serve._ports import check_free
from hermes.aeriel.serve.runtimes import container_commands
from hermes.errors import HermesError, PortInUseError, ProcError
from hermes.runtime import find_triton
from hermes.runtime._layout import HOME_VARIABLE, triton_home

VERSION_TIMEOUT_S = 20.0
LOOPBACK = (
    "every user of this host can use a server on a port: send requests, read its configuration, "
    "and name the shared memory of other clients as input or output. Servers of pipelines listen "
    "on Unix sockets, which no other user can connect to; other servers do with "
    'listen="unix" or --listen=unix'
)
TRITON_BYTES = 1_000_000_000  # an installation has a third of that; pip needs the rest
TEMPORARY_BYTES = 100_000_000  # for logs and for pip
# The purpose of each extra, and a module that it installs.
EXTRAS = {
    "report": ("jinja2", "reports as pages"),
    "tls": ("cryptography", "servers that clients on other hosts reach"),
    "demo": ("skl2onnx", "the digits example"),
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of `hermes check`.

    Parameters
    ----------
    subject, text
        What was checked, and the result.
    is_missing
        Whether a feature does not work.
    """

    subject: str
    text: str
    is_missing: bool = False


def machine_facts() -> Iterator[Fact]:
    """Yield what this machine has, and what is missing for which feature."""
    yield Fact(subject="python", text=f"{sys.version.split()[0]}, {sys.executable}")
    if problem := other_package(Path(hermes.aeriel.__file__).parent):
        yield Fact(subject="packages", text=problem, is_missing=True)
    yield from _triton()
    yield from _runtimes()
    yield from _gpus()
    yield from _ports()
    yield Fact(subject="loopback", text=LOOPBACK)
    yield _temporary_files()
    processes = _processes()
    yield processes
    yield from _shared_memory()
    if not processes.is_missing:
        for region in regions_of_the_dead():
            yield Fact(subject=str(region), text="its process has ended; it can be removed")
    for extra, (module, purpose) in EXTRAS.items():
        is_missing = importlib.util.find_spec(module) is None
        text = f"pip install 'hermes-aeriel[{extra}]' for {purpose}" if is_missing else "installed"
        yield Fact(subject=f"extra {extra}", text=text, is_missing=is_missing)


def _triton() -> Iterator[Fact]:
    try:
        triton = find_triton()
    except HermesError as error:
        yield Fact(subject="triton", text=f"{error}", is_missing=True)
        yield _room(
            "triton's home",
            triton_home(os.environ),
            TRITON_BYTES,
            f"name another directory for `hermes install-triton` with {HOME_VARIABLE}",
        )
    else:
        yield Fact(subject="triton", text=f"{triton.binary}, from {triton.source}")


def _temporary_files() -> Fact:
    advice = "name another directory with TMPDIR"
    try:
        directory = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Fact(subject="temporary files", text=f"{error}; {advice}", is_missing=True)
    return _room("temporary files", directory, TEMPORARY_BYTES, advice)


def _room(subject: str, directory: Path, wanted_bytes: int, advice: str) -> Fact:
    """Return whether a directory, which need not exist yet, has room for so many bytes."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK | os.X_OK):
        return Fact(subject=subject, text=f"{there} is not writable; {advice}", is_missing=True)
    text = f"{directory}, {free / 1e9:.1f} GB free"
    if free >= wanted_bytes:
        return Fact(subject=subject, text=text)
    text = f"{text}, but {wanted_bytes / 1e9:.1f} GB are needed; {advice}"
    return Fact(subject=subject, text=text, is_missing=True)


def _processes() -> Fact:
    try:
        Host.here()
    except ProcError as error:
        return Fact(subject="processes", text=str(error), is_missing=True)
    return Fact(subject="processes", text="/proc shows those of this PID namespace")


def _runtimes() -> Iterator[Fact]:
    found = container_commands()
    for name, path in found.items():
        yield Fact(subject=name, text=f"{_first_line(path, '--version')}, {path}")
    if not found:
        text = "neither singularity nor apptainer; needed to serve from an image (--image)"
        yield Fact(subject="container", text=text, is_missing=True)


def _first_line(*command: str) -> str:
    try:
        done = run_captured(command, timeout_s=VERSION_TIMEOUT_S)
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
            text = 'in use; give other ports, or use free ones (--ports=auto, ports="auto")'
        except HermesError as error:
            text = str(error)
        else:
            text = "free"
        yield Fact(subject=f"port {port}", text=f"{service}: {text}")


def _shared_memory() -> Iterator[Fact]:
    subject, purpose = str(SHARED_MEMORY), "Triton's Python models and fast tensors need it"
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        problem = "is not writable" if SHARED_MEMORY.is_dir() else "does not exist"
        yield Fact(subject=subject, text=f"{problem}; {purpose}", is_missing=True)
        return
    usage = shutil.disk_usage(SHARED_MEMORY)
    size = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free"
    small = usage.total < 256e6
    text = f"{size}; Python models and large tensors need more" if small else size
    yield Fact(subject=subject, text=text, is_missing=small)
