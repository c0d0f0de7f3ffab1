"""The files that processes agree through: private, and whole whenever somebody reads them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hermes.errors import ParameterError

STATE_VARIABLE = "HERMES_STATE_HOME"


def make_private(directory: Path) -> None:
    """Make a directory for this user only, with its parents.

    Raises
    ------
    ParameterError
        It belongs to somebody else, who could plant files in it.
    """
    for path in (directory.parent, directory):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_own(path):
            problem = f"{path} is not a directory of this user; set it to one that is"
            raise ParameterError(STATE_VARIABLE, problem)
    directory.chmod(0o700)


def is_own(directory: Path) -> bool:
    """Tell whether a directory is there and belongs to this user."""
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def entries(directory: Path) -> list[Path]:
    """Return what is in a directory, sorted; nothing where there is none."""
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def text_of(path: Path) -> str:
    """Return what is in a file; nothing where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
