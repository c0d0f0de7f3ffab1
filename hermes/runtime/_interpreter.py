"""Finds a Python that Triton works with, and its shared library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hermes.errors import InstallError

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


def find_python() -> dict[str, Any]:
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


def link_libpython(directory: Path, about: dict[str, Any]) -> None:
    """Link the stub's libpython into an empty directory, for the loader's path."""
    directory.mkdir()
    for folder in about["folders"]:
        library = Path(folder) / about["library"]
        if library.is_file():
            (directory / library.name).symlink_to(library)
            return
