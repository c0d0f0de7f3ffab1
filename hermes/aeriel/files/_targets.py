"""Files that have the targets of other files' rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hermes.errors import DataError, ParameterError

NAME = "*"


def find_target_files(pattern: str, inputs: Sequence[Sequence[Path]]) -> tuple[Path, ...]:
    """Return the file with the targets of each input.

    Parameters
    ----------
    pattern
        A path. One ``*`` in its last part stands for the name of the input file without its suffix;
        of several files that are read side by side, the first. For one input it may be without.
    inputs
        The files of each input.

    Raises
    ------
    ParameterError
        The pattern has no ``*`` for several inputs, or another than this; or two inputs would have
        the same file.
    DataError
        There is no such file.
    """
    path = Path(pattern)
    name = path.name
    if path.is_dir():
        example = str(path / "*.h5")
        problem = f"{pattern!r} is a directory; give its files, as {example!r}"
        raise ParameterError("target_file", f"{problem}: * stands for the name of each input file")
    if pattern.count(NAME) > 1 or NAME in str(path.parent):
        problem = f"{pattern!r} has another * than one in the name of the file"
        raise ParameterError("target_file", f"{problem}, where it stands for that of the input")
    if NAME not in name and len(inputs) > 1:
        problem = f"{pattern!r} is one file for {len(inputs)} inputs"
        advice = "write * for the name of each input file without its suffix, as labels/*.h5"
        raise ParameterError("target_file", f"{problem}; {advice}")
    found: dict[Path, Path] = {}
    for first, *_ in inputs:
        file = path.with_name(name.replace(NAME, first.stem)).absolute()
        other = found.setdefault(file, first)
        if other != first:
            problem = f"{pattern!r} has one file, {file}, for both {other} and {first}"
            raise ParameterError("target_file", f"{problem}; give one of them another name")
    missing = [file for file in found if not file.exists()]
    if missing:
        others = f", as {len(missing) - 1} others do not" if len(missing) > 1 else ""
        problem = f"does not exist{others}; it would have the targets of {found[missing[0]]}"
        raise DataError(file=str(missing[0]), problem=problem)
    return tuple(found)
