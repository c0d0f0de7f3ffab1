"""The files that go in, and those of their targets: found by paths and patterns, each once."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path

from hermes.aeriel.files._output import fingerprint_of
from hermes.errors import DataError, ParameterError

_MAGIC_CHARACTERS = set("*?[")
# Stands for the name of an input file, in that of its targets.
_ANY = "*"


def find_files(patterns: Sequence[str], *, of_results: bool = False) -> tuple[Path, ...]:
    """Return the files that paths and glob patterns name, sorted, each once.

    Parameters
    ----------
    patterns
        Paths and glob patterns.
    of_results
        Whether they are meant to name results of an earlier run.

    Raises
    ------
    ParameterError
        There is no pattern, or one matches no file, or results of an earlier run by chance; or two
        paths lead to one file.
    """
    parameter = "predictions" if of_results else "inputs"
    if not patterns:
        raise ParameterError(parameter, "no file was given; give paths or globs of HDF5 files")
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file():  # also where its name happens to hold a magic character
            found.add(path.absolute())
            continue
        files = [Path(match).absolute() for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (absolute patterns too)
        files = [match for match in files if match.is_file()]
        if not files:
            raise ParameterError(parameter, f"{pattern!r} {_why_no_file(pattern)}")
        ours = [str(file) for file in sorted(files) if fingerprint_of(file) is not None]
        if ours and not of_results:
            problem = f"{pattern!r} also matches results of earlier runs: {ours[:5]}"
            raise ParameterError("inputs", f"{problem}; give a pattern that leaves them out")
        found.update(files)
    known: dict[tuple[int, int], Path] = {}
    for file in sorted(found):
        status = file.stat()
        same = known.setdefault((status.st_dev, status.st_ino), file)
        if same != file:
            problem = f"{same} and {file} are one file, whose rows would count twice"
            raise ParameterError("inputs", f"{problem}; name it once")
    return tuple(sorted(found))


def _why_no_file(pattern: str) -> str:
    path = Path(pattern)
    if path.is_dir():
        return f"is a directory; give its files, as {str(path / '*.h5')!r}"
    parts = [part.strip() for part in pattern.split(",")]
    if len(parts) > 1 and all(glob.glob(part) for part in parts):  # noqa: PTH207 (as above)
        several = json.dumps(parts)
        return f"is not a file; several are, for Luigi, a JSON list: {several}"
    problem = "matches no file" if _MAGIC_CHARACTERS & set(pattern) else "is not a file"
    return f"{problem} (in {Path.cwd()})"


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
    if pattern.count(_ANY) > 1 or _ANY in str(path.parent):
        problem = f"{pattern!r} has another * than one in the name of the file"
        raise ParameterError("target_file", f"{problem}, where it stands for that of the input")
    if _ANY not in name and len(inputs) > 1:
        problem = f"{pattern!r} is one file for {len(inputs)} inputs"
        advice = "write * for the name of each input file without its suffix, as labels/*.h5"
        raise ParameterError("target_file", f"{problem}; {advice}")
    found: dict[Path, Path] = {}
    for first, *_ in inputs:
        file = path.with_name(name.replace(_ANY, first.stem)).absolute()
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


def output_names(inputs: Sequence[Sequence[Path]]) -> list[str]:
    """Return a name for the predictions of each input: its path below what all have in common.

    Parameters
    ----------
    inputs
        The file, or files, of each. Those of several are joined with a plus sign.

    Raises
    ------
    ParameterError
        Files of two inputs have the same names, in different directories.
    """
    files = [
        first.with_stem("+".join([first.stem, *(other.stem for other in others)]))
        for first, *others in inputs
    ]
    common = Path(*_common([file.parent.parts for file in files]))
    names = [str(file.relative_to(common)) for file in files]
    first: dict[str, Sequence[Path]] = {}
    for name, together in zip(names, inputs, strict=True):
        if (other := first.setdefault(name, together)) is not together:
            several = " and of ".join(" with ".join(map(str, each)) for each in (other, together))
            problem = f"{name} would have the predictions of {several}"
            raise ParameterError("inputs", f"{problem}; give the files different names")
    return names


def _common(paths: Sequence[tuple[str, ...]]) -> list[str]:
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common
