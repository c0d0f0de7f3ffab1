"""The files of an installed Triton.

    HOME/lock                      locked while an installation runs
    HOME/current                   -> the installation in use
    HOME/triton-0.7.0-1f2e3d4c/    one installation: a virtual environment, and in it
        manifest.json              written last: without it there is no installation
        libpython/                 the shared library of the Python that installed it
        backends-5a6b7c8d9e0f/     Triton's backend directory, named after its sources

An installation does not move or change once `current` links to it, except that new backends are
added beside the old ones. The next installation does not disturb a server that runs from it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

from hermes._files import write_whole

HOME_VARIABLE = "HERMES_TRITON_HOME"
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Installation:
    """The manifest of a complete installation."""

    directory: Path
    pytriton: str
    python: str
    wishes: tuple[str, ...]
    versions: Mapping[str, str]
    backends: str

    @property
    def site_packages(self) -> Path:
        """The packages that Triton's Python models import."""
        return self.directory / "lib" / f"python{self.python}" / "site-packages"

    @property
    def tritonserver(self) -> Path:
        """Triton's own directory inside the wheel of nvidia-pytriton."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        """The server."""
        return self.tritonserver / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The process that runs Triton's Python models, built for this Python."""
        return (
            self.tritonserver / "python_backend_stubs" / self.python / "triton_python_backend_stub"
        )

    @property
    def backend_directory(self) -> Path:
        """The directory with the backends of Triton and of hermes."""
        return self.directory / self.backends

    @property
    def libpython(self) -> Path:
        """A directory that has only a link to the shared library of this Python."""
        return self.directory / "libpython"

    def problem(self) -> str | None:
        """Return why the installation does not work; None if it does."""
        if not os.access(self.binary, os.X_OK) or not self.backend_directory.is_dir():
            return "is damaged"
        if not (self.directory / "bin" / "python3").exists():
            return f"was made with a Python {self.python} that is gone"
        return None

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables with which it works in any Python environment.

        Triton's stub embeds Python: it finds its standard library and its packages through the
        `python3` on the PATH, and imports numpy first. Both must be those of the installation. The
        caller's PYTHONPATH, with packages for another Python, is not passed on.
        """
        libraries = (self.site_packages / "nvidia_pytriton.libs", self.libpython)
        return {
            "PATH": _joined(self.directory / "bin", environ.get("PATH")),
            "PYTHONPATH": str(self.site_packages),
            "LD_LIBRARY_PATH": _joined(*libraries, environ.get("LD_LIBRARY_PATH")),
            # Python ignores an empty PYTHONHOME; a variable cannot be unset from here.
            "PYTHONHOME": "",
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # model repositories may be read-only, or shared
            # onnxruntime 1.32 reports to its maker how it is used, where it is not told not to.
            "ORT_DISABLE_TELEMETRY": environ.get("ORT_DISABLE_TELEMETRY", "1"),
        }

    def write(self) -> None:
        """Write the manifest."""
        facts = dataclasses.asdict(self)
        del facts["directory"]
        write_whole(self.directory / MANIFEST, json.dumps(facts, indent=2) + "\n")


def triton_home(environ: Mapping[str, str]) -> Path:
    """Return the directory that holds the installed Triton."""
    if home := environ.get(HOME_VARIABLE):
        return Path(home).expanduser().absolute()
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "hermes" / "triton"


def current(home: Path) -> Installation | None:
    """Return the installation in use under `home`, or None."""
    directory = (home / "current").resolve()
    try:
        facts = json.loads((directory / MANIFEST).read_text())
        facts["wishes"] = tuple(facts["wishes"])
        return Installation(directory=directory, **facts)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _joined(*parts: Path | str | None) -> str:
    return os.pathsep.join(str(part) for part in parts if part)
