"""Installs Triton from PyPI into a private environment, completely or not at all."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hermes.errors import InstallError, ParameterError
from hermes.runtime import _layout
from hermes.runtime._find import LocalTriton, local_triton
from hermes.runtime._layout import Installation

logger = logging.getLogger(__name__)

PYTRITON = "0.7.0"
# With numpy 2 every output of the wheel's Python backend is empty, without an error. numpy 1 has
# no wheels for Python 3.13.
NUMPY = "numpy<2"
# Earlier installations list them with the versions of the environment, which are too old for torch.
INSTALLERS = {"pip", "setuptools", "wheel"}
PYTHONS = ("3.12", "3.11")
ABOUT_PYTHON = """
import json, sys, sysconfig
folders = [sysconfig.get_config_var(name) for name in ("LIBDIR", "LIBPL")]
print(json.dumps({
    "executable": sys.executable,
    "version": "%d.%d" % sys.version_info[:2],
    "library": sysconfig.get_config_var("INSTSONAME"),
    "folders": [folder for folder in folders if folder],
}))
"""
SOURCES = Path(__file__).parent
# Copied beside each backend, as hermes_batching.py and so on.
SHARED = ("_batching.py", "_sequences.py", "_threads.py")
# Advice on a failure, by texts in the output of the step that failed.
ADVICE = (
    (
        ("No space left on device", "Disk quota exceeded"),
        f"An installation needs 1 GB; name another directory with {_layout.HOME_VARIABLE}",
    ),
    (
        ("Read-only file system", "Permission denied", "Not a directory"),
        f"The directory is not writable; name another one with {_layout.HOME_VARIABLE}",
    ),
    (
        ("No module named ensurepip",),
        "Install the package of your system with venv (on Debian: apt install python3-venv)",
    ),
    (
        ("after connection broken by", "HTTP error 403", "Could not find a version"),
        (
            "pip could not download from a package index. Name your site's proxy (pip config set "
            "global.proxy URL) or mirror (pip config set global.index-url URL). Without either, "
            "serve from a container image, or from a tritonserver of your own on the PATH or in "
            "HERMES_TRITON_BINARY"
        ),
    ),
)


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
        with _locked(home, report) as lock:
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

    wishes = _merged(found.wishes if found else (), packages)
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
        return _run(description, command, lock)

    about = _python()
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
    _run("removing setuptools", (*pip, "uninstall", "--yes", "setuptools"), lock)
    requirements = _requirements(wishes)
    constraints = directory / "constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in _pins(kept, wishes)))
    step(
        f"pip install {' '.join(requirements)}",
        *(*pip, "install", "--prefer-binary", "--constraint", constraints, *requirements),
    )
    # The other dependencies are for its Python API, which hermes does not use.
    wheel = f"nvidia-pytriton=={PYTRITON}"
    step(f"pip install {wheel}", *pip, "install", "--no-deps", wheel)
    listed = _run("pip list", (*pip, "list", "--format=json"), lock, errors=False)
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
    _link_libpython(installation.libpython, about)
    installation = _with_backends(installation, write=False)
    report("checking that Triton runs")
    _check(installation, lock)
    installation.write()
    return installation


def _python() -> dict[str, Any]:
    """Return a description of a Python that Triton works with: this one if possible."""
    for python in (sys.executable, *(f"python{version}" for version in PYTHONS)):
        try:
            result = subprocess.run(
                [python, "-I", "-c", ABOUT_PYTHON], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        about: dict[str, Any] = json.loads(result.stdout)
        if about["version"] in PYTHONS:
            return about
    raise InstallError(
        "looking for a Python",
        f"Triton's Python backend needs numpy 1, which there is for Python {', '.join(PYTHONS)}. "
        f"This is Python {sys.version_info.major}.{sys.version_info.minor}, and none of those is "
        "on the PATH. Add one to the PATH; only Triton uses it",
    )


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
    _run("importing onnxruntime", ("python3", "-c", modules), lock, environment=environment)
    for program in (
        installation.binary,
        installation.backend_directory / "python" / installation.stub.name,
    ):
        # Both exit with 1, whatever the arguments; 127 means that a library is missing.
        result = subprocess.run(
            [program, "--help"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode not in (0, 1):
            advice = (
                f"If libpython is missing: {sys.executable} was built without a shared library, or "
                "the library is a separate package; use a Python that has it"
            )
            raise InstallError(f"starting {program.name}", result.stderr, advice)


def _failed(step: str, output: str) -> InstallError:
    """Return the error of a step, with advice where its output is known."""
    advice = (text for signs, text in ADVICE if any(sign in output for sign in signs))
    return InstallError(step, output, next(advice, ""))


def _run(
    description: str,
    command: Sequence[str | Path],
    lock: int,
    *,
    environment: dict[str, str] | None = None,
    errors: bool = True,
) -> str:
    # With PIP_USER, or `user = true` in a pip.conf, pip refuses to work in an environment.
    environment = environment or {**os.environ, "PIP_USER": "0", "PIP_NO_INPUT": "1"}
    try:
        # The child holds the lock too: if this process is killed, the next installation waits
        # until the child has ended, and does not remove files that the child still writes.
        result = subprocess.run(
            [str(part) for part in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
            pass_fds=(lock,),
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise _failed(description, str(error)) from error
    if result.returncode != 0:
        raise _failed(description, result.stdout)
    return result.stdout


@contextmanager
def _locked(home: Path, report: Callable[[str], None]) -> Iterator[int]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _failed(f"creating {home}", str(error)) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another installation in {home} to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


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
    names = {_name(wish) for wish in installation.wishes}
    # A name without a version accepts the version of an earlier wish.
    return _works(installation) and all(
        wish in installation.wishes or wish in names for wish in packages
    )


def _works(installation: Installation) -> bool:
    return installation.pytriton == PYTRITON and installation.problem() is None


def _merged(earlier: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    return tuple({_name(wish): wish for wish in (*earlier, *later)}.values())


def _requirements(wishes: Sequence[str]) -> list[str]:
    # onnxruntime-gpu and similar packages contain the same module: they replace onnxruntime.
    has_runtime = any(_name(wish).startswith("onnxruntime") for wish in wishes)
    return [NUMPY, *([] if has_runtime else ["onnxruntime"]), *wishes]


def _pins(versions: Mapping[str, str], wishes: Sequence[str]) -> list[str]:
    """Return constraints that keep these versions, except for packages that are requested."""
    asked = {_name(wish) for wish in wishes}
    if "pip" in versions:
        asked |= INSTALLERS
    return [f"{name}=={version}" for name, version in versions.items() if _name(name) not in asked]


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*(?=\s*($|[\[<>=!~;@]))", requirement)
    return re.sub(r"[-_.]+", "-", match.group()).lower() if match else requirement


def _backend_sources() -> list[Path]:
    return sorted(SOURCES.glob("backends/*/*.py"))


def _backends_hash() -> str:
    digest = hashlib.sha256()
    for source in (*_backend_sources(), *(SOURCES / name for name in SHARED)):
        digest.update(str(source.relative_to(SOURCES)).encode() + b"\0")
        digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _link_libpython(directory: Path, about: dict[str, Any]) -> None:
    """Link the stub's libpython into an empty directory, for the loader's path."""
    directory.mkdir()
    for folder in about["folders"]:
        library = Path(folder) / about["library"]
        if library.is_file():
            (directory / library.name).symlink_to(library)
            return
