"""Installs Triton from PyPI into a private environment, completely or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from hermes._captured import run_captured
from hermes.errors import InstallError, ParameterError
from hermes.runtime import _layout
from hermes.runtime._find import LocalTriton, local_triton
from hermes.runtime._interpreter import find_python, link_libpython
from hermes.runtime._layout import Installation
from hermes.runtime._requirements import merge, package_name, pins, with_defaults
from hermes.runtime._steps import locked, run

logger = logging.getLogger(__name__)

PYTRITON = "0.7.0"
SOURCES = Path(__file__).parent
# Copied beside each backend, as hermes_batching.py and so on.
SHARED = ("_batching.py", "_sequences.py", "_threads.py")


def install_triton(
    home: Path | None = None,
    packages: Sequence[str] = (),
    report: Callable[[str], None] = logger.info,
) -> LocalTriton:
    """Return an installed Triton, after installing it if necessary.

    It has a virtual environment of its own, made with the Python that runs this or, where Triton
    does not work with it, with another one on the PATH. It serves models of Triton's `python` and
    `onnxruntime` backends, and of `pytorch` where torch is among `packages`.

    An installation that already has everything is returned at once. An installation is not changed
    until its successor is complete; servers that run from it continue.

    Parameters
    ----------
    home
        The directory to install under. By default HERMES_TRITON_HOME, else
        `~/.cache/hermes/triton`.
    packages
        Requirements for pip, added to those of earlier calls: `torch`, or `onnxruntime-gpu`
        in place of onnxruntime, or the imports of Python models. Packages that are installed keep
        their versions, unless they are named here.
    report
        Called with a line of text at every step.

    Raises
    ------
    InstallError
        A step failed; the error has its output.
    ParameterError
        A package is an option of pip rather than a requirement, or `home` contains a colon or
        a semicolon.
    """
    for package in packages:
        if not package or package.startswith("-"):
            raise ParameterError("packages", f"{package!r} is not a requirement for pip")
    # Without symbolic links: directories are compared with those of running processes.
    home = (home or _layout.triton_home(os.environ)).expanduser().resolve()
    # Both separate directories in LD_LIBRARY_PATH, see ld.so(8).
    if separators := set(str(home)) & {":", ";"}:
        raise ParameterError(
            "home",
            f"{home} contains {' and '.join(sorted(separators))}, which no directory in "
            f"LD_LIBRARY_PATH may; name another directory with {_layout.HOME_VARIABLE}",
        )
    installation = _layout.current(home)
    if installation is None or not _is_complete(installation, packages):
        with locked(home, report) as lock:
            installation = _bring(home, packages, report, lock)
    return local_triton(installation, os.environ)


def _bring(
    home: Path, packages: Sequence[str], report: Callable[[str], None], lock: int
) -> Installation:
    # Look again under the lock: another process may have installed it since.
    found = _layout.current(home)
    _remove_leftovers(home, found)
    if found is not None and _has(found, packages):
        if not _is_complete(found, packages):
            report(f"bringing the backends in {found.directory} up to date")
            found = _with_backends(found)
        return found

    wishes = merge(found.wishes if found else (), packages)
    # A further package does not change the versions of the others, which other users rely on.
    kept = found.versions if found is not None and _works(found) else {}
    directory = home / f"triton-{PYTRITON}-{uuid.uuid4().hex[:8]}"
    try:
        installation = _build(directory, wishes, kept, report, lock)
        link = home / f"current-{directory.name}"
        link.symlink_to(directory.name)
        link.replace(home / "current")
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    _remove_leftovers(home, installation)
    report(f"installed Triton in {directory}")
    return installation


def _build(
    directory: Path,
    wishes: tuple[str, ...],
    kept: Mapping[str, str],
    report: Callable[[str], None],
    lock: int,
) -> Installation:
    def step(description: str, *command: str | Path) -> str:
        report(description)
        return run(description, command, lock)

    about = find_python()
    step(
        f"creating an environment with {about['executable']}",
        *(about["executable"], "-I", "-m", "venv", "--without-pip", directory),
    )
    python = directory / "bin" / "python3"
    # A step of its own: venv does not show why ensurepip failed.
    step("installing pip", python, "-I", "-m", "ensurepip", "--default-pip")
    pip: tuple[str | Path, ...] = (python, "-I", "-m", "pip")
    # Some versions of ensurepip install it. A package that needs it depends on it, and then its
    # version is kept like that of all others.
    run("removing setuptools", (*pip, "uninstall", "--yes", "setuptools"), lock)
    requirements = with_defaults(wishes)
    constraints = directory / "constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in pins(kept, wishes)))
    step(
        f"pip install {' '.join(requirements)}",
        *(*pip, "install", "--prefer-binary", "--constraint", constraints, *requirements),
    )
    # The other dependencies are for its Python API, which hermes does not use.
    wheel = f"nvidia-pytriton=={PYTRITON}"
    step(f"pip install {wheel}", *pip, "install", "--no-deps", wheel)
    listed = run("pip list", (*pip, "list", "--format=json"), lock, errors=False)
    installation = Installation(
        directory=directory,
        pytriton=PYTRITON,
        python=about["version"],
        wishes=wishes,
        versions={
            entry["name"]: entry["version"]
            for entry in json.loads(listed)
            if entry["name"] != "pip"  # no model imports it
        },
        backends="",
    )
    link_libpython(installation.libpython, about)
    installation = _with_backends(installation, write=False)
    report("checking that Triton runs")
    _check(installation, lock)
    installation.write()
    return installation


def _with_backends(installation: Installation, *, write: bool = True) -> Installation:
    directory = installation.directory / f"backends-{_backends_hash()}"
    part = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(installation.tritonserver / "backends", part)
    stub = part / "python" / installation.stub.name
    shutil.copy2(installation.stub, stub)
    stub.chmod(0o755)
    for source in _backend_sources():
        (part / source.parent.name).mkdir(exist_ok=True)
        shutil.copy2(source, part / source.parent.name / source.name)
        for name in SHARED:
            shutil.copy2(SOURCES / name, part / source.parent.name / f"hermes{name}")
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)
    installation = dataclasses.replace(installation, backends=directory.name)
    if write:
        installation.write()
    return installation


def _check(installation: Installation, lock: int) -> None:
    environment = {**os.environ, **installation.environment(os.environ)}
    modules = "import numpy, onnxruntime"
    run("importing onnxruntime", ("python3", "-c", modules), lock, environment=environment)
    for program in (
        installation.binary,
        installation.backend_directory / "python" / installation.stub.name,
    ):
        # Both exit with 1, whatever the arguments; 127 means that a library is missing.
        result = run_captured([str(program), "--help"], environ=environment)
        if result.returncode not in (0, 1):
            advice = (
                f"If libpython is missing: {sys.executable} was built without a shared library, or "
                "the library is a separate package; use a Python that has it"
            )
            raise InstallError(f"starting {program.name}", result.stderr, advice)


def _remove_leftovers(home: Path, installation: Installation | None) -> None:
    """Remove what killed installations left, and installations that no process runs from."""
    for link in home.glob("current-triton-*"):
        link.unlink()
    running = [
        Path(process.info["exe"]) for process in psutil.process_iter(["exe"]) if process.info["exe"]
    ]
    for directory in home.glob("triton-*"):
        in_use = any(program.is_relative_to(directory) for program in running)
        if installation is not None and directory == installation.directory:
            backends = set(directory.glob("backends-*")) - {installation.backend_directory}
        else:
            backends = {directory}
        for path in () if in_use else backends:
            shutil.rmtree(path, ignore_errors=True)


def _is_complete(installation: Installation, packages: Sequence[str]) -> bool:
    return _has(installation, packages) and installation.backends == f"backends-{_backends_hash()}"


def _has(installation: Installation, packages: Sequence[str]) -> bool:
    names = {package_name(wish) for wish in installation.wishes}
    # A name without a version accepts the version of an earlier wish.
    return _works(installation) and all(
        wish in installation.wishes or wish in names for wish in packages
    )


def _works(installation: Installation) -> bool:
    return installation.pytriton == PYTRITON and installation.problem() is None


def _backend_sources() -> list[Path]:
    return sorted(SOURCES.glob("backends/*/*.py"))


def _backends_hash() -> str:
    digest = hashlib.sha256()
    for source in (*_backend_sources(), *(SOURCES / name for name in SHARED)):
        digest.update(str(source.relative_to(SOURCES)).encode() + b"\0")
        digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
