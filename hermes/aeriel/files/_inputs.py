"""The HDF5 files that go in: found, opened, and refused before anything starts."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hermes.aeriel.files._links import DAMAGE, as_data_errors, entries, find, is_same
from hermes.aeriel.files._output import fingerprint_of
from hermes.aeriel.files._sources import check_readable
from hermes.aeriel.files._values import text_of
from hermes.aeriel.files._window_options import WindowOptions, check_times, sample_rate_of
from hermes.errors import DataError, ParameterError

_MAGIC_CHARACTERS = set("*?[")


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a dataset without reading it."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sample_rate: float | None = None
    units: str = ""

    def __str__(self) -> str:
        return f"{describe_dtype(self.dtype)} of shape {self.shape}"


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """What is known of an input file without reading its data.

    Parameters
    ----------
    file
        The file.
    rows
        The length of the leading axis, which its datasets share.
    datasets
        Each dataset by the name of the model input that it is for.
    target
        The dataset with the targets, where there is one.
    """

    file: Path
    rows: int
    datasets: Mapping[str, DatasetFacts]
    target: DatasetFacts | None = None


def find_files(patterns: Sequence[str]) -> tuple[Path, ...]:
    """Return the files that paths and glob patterns name, sorted, each once.

    Raises
    ------
    ParameterError
        There is no pattern, or one matches no file, or results of an earlier run; or two paths lead
        to one file.
    """
    if not patterns:
        raise ParameterError("inputs", "no file was given; give paths or globs of HDF5 files")
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file():  # also where its name happens to hold a magic character
            found.add(path.absolute())
            continue
        files = [Path(match).absolute() for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (absolute patterns too)
        files = [match for match in files if match.is_file()]
        if not files:
            is_glob = bool(_MAGIC_CHARACTERS & set(pattern))
            problem = "matches no file" if is_glob else "is not a file"
            raise ParameterError("inputs", f"{pattern!r} {problem} (in {Path.cwd()})")
        ours = [str(file) for file in sorted(files) if fingerprint_of(file) is not None]
        if ours:
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


def output_names(files: Sequence[Path]) -> list[str]:
    """Return a name for the predictions of each file: its path below what all have in common."""
    if len(files) == 1:
        return [files[0].with_suffix(".h5").name]
    common = Path(*_common([file.parent.parts for file in files]))
    return [str(file.relative_to(common)) for file in files]


@contextmanager
def open_input(file: Path, **options: Any) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it, with further options of `h5py.File`.

    Raises
    ------
    DataError
        It is missing, unreadable, no HDF5 file, or truncated.
    """
    if file.exists() and not file.is_file():
        raise DataError(file=str(file), problem="is not a file")
    try:
        opened = h5py.File(file, "r", **options)
    except DAMAGE as error:
        raise DataError(file=str(file), problem=_why_not_opened(file, error)) from error
    with opened:
        yield opened


def inspect(
    file: Path,
    input_map: Mapping[str, str],
    *,
    model_inputs: Sequence[str] | None = None,
    optional: Collection[str] = (),
    target: str | None = None,
    cut: WindowOptions | None = None,
    allow_external_data: bool = False,
) -> InputFacts:
    """Return the facts of an input file, after checking that it can be used.

    Parameters
    ----------
    file
        An HDF5 file.
    input_map
        The path of a dataset in the file by the name of the model input that it is for.
    model_inputs
        The names of the model's inputs, where they are known. An input that `input_map` does not
        name takes the dataset of its own name; the only input of a model takes the only dataset
        (besides the target). Unknown inputs are as if there were one.
    optional
        Those of them that the model can do without: one whose dataset is not there is left out.
    target
        The path of the dataset with the targets, if any.
    cut
        How the inputs are cut into windows, which are rows then; None where they have rows.
    allow_external_data
        Whether raw bytes of a dataset may come from files outside the file's directory.

    Raises
    ------
    DataError
        It is no HDF5 file, or damaged, lacks a dataset, has none or too many to choose from, has
        no rows, or its datasets have different numbers of rows; a dataset cannot be read, because
        a source of it or a filter is missing, or is something else than numbers or strings; or
        windows of its datasets are of different times.
    """
    with open_input(file) as opened, as_data_errors(file):
        names = _complete_map(
            opened, file, input_map, model_inputs, optional=optional, target=target
        )
        allowed = allow_external_data
        datasets = {name: _facts(opened, file, path, allowed, cut) for name, path in names.items()}
        if cut is not None:
            check_times(cut, [find(opened["/"], path) for path in names.values()])
        target_facts = None if target is None else _facts(opened, file, target, allowed)
    first = next(iter(datasets.values()))
    rows = first.shape[0]
    if rows == 0:
        raise DataError(file=str(file), dataset=first.path, problem="has no rows")
    for other in [*datasets.values(), *([target_facts] if target_facts else [])]:
        if other.shape[0] != rows:
            problem = f"has {other.shape[0]} rows, but {first.path!r} has {rows}"
            raise DataError(file=str(file), dataset=other.path, problem=problem)
    return InputFacts(file=file, rows=rows, datasets=datasets, target=target_facts)


def describe_dtype(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name in a message."""
    if h5py.check_string_dtype(dtype) is not None:
        return "string"
    elements = h5py.check_vlen_dtype(dtype)
    return str(dtype) if elements is None else f"varying numbers of {elements}"


def _complete_map(
    opened: h5py.File,
    file: Path,
    input_map: Mapping[str, str],
    model_inputs: Sequence[str] | None,
    *,
    optional: Collection[str],
    target: str | None,
) -> dict[str, str]:
    if model_inputs is not None and len(model_inputs) == 1 and set(input_map) == {""}:
        # Settled by a caller who had not met the model yet, but had seen the target.
        return {model_inputs[0]: input_map[""]}
    wanted = list(model_inputs or input_map or [""])
    missing = [name for name in wanted if name not in input_map]
    required = [name for name in wanted if name not in optional]
    paths = {name: input_map[name] for name in wanted if name in input_map}
    paths.update({name: path for name, path in input_map.items() if name not in paths})
    for name in missing:
        found = find(opened["/"], name) if name else None
        if found is not None:
            if target is not None and is_same(found, find(opened["/"], target)):
                problem = (
                    f"is the target {target!r} by another name, and would be the model's input"
                )
                advice = "name the dataset for it in input_map"
                raise DataError(file=str(file), dataset=name, problem=f"{problem}; {advice}")
            paths[name] = name
        elif name in optional:
            continue
        elif len(required) == 1:
            paths[name] = _only_dataset(opened, file, target)
        else:
            problem = f"not found; name the dataset for the model's input {name!r} in input_map"
            raise DataError(file=str(file), dataset=name, problem=f"{problem}. {_there(opened)}")
    if not paths:
        problem = f"has no dataset for any of the model's inputs {wanted}. {_there(opened)}"
        raise DataError(file=str(file), problem=problem)
    return paths


def _only_dataset(opened: h5py.File, file: Path, target: str | None) -> str:
    target_dataset = find(opened["/"], target) if target else None
    datasets: dict[str, h5py.Dataset] = {}
    for entry in entries(opened):
        is_target = target_dataset is not None and entry.dataset is not None
        if entry.dataset is None or (is_target and is_same(entry.dataset, target_dataset)):
            continue
        if not any(is_same(entry.dataset, other) for other in datasets.values()):
            datasets[entry.path] = entry.dataset
    if len(datasets) == 1:
        return next(iter(datasets))
    names = sorted(datasets)
    problem = "has no dataset" if not names else f"has {len(names)} datasets {names[:10]}"
    advice = 'name the one for the model\'s input in input_map, as \'{"x": "/path"}\''
    raise DataError(file=str(file), problem=f"{problem}; {advice}. {_there(opened)}")


def _facts(
    opened: h5py.File,
    file: Path,
    path: str,
    allow_external_data: bool,
    cut: WindowOptions | None = None,
) -> DatasetFacts:
    with as_data_errors(file, path):
        entry = find(opened["/"], path)
        if entry is None:
            raise DataError(file=str(file), dataset=path, problem=f"not found. {_there(opened)}")
        if not isinstance(entry, h5py.Dataset):
            raise DataError(file=str(file), dataset=path, problem="is a group, not a dataset")
        if not entry.shape:
            raise DataError(file=str(file), dataset=path, problem="is a scalar; rows are wanted")
        check_readable(entry, allow_external_data=allow_external_data)
        shape = entry.shape if cut is None else cut.shape_of(entry)
        rate = _rate(entry)
        units = str(text_of(entry.attrs.get("units", entry.attrs.get("unit", ""))))
        return DatasetFacts(
            path=path, shape=shape, dtype=entry.dtype, sample_rate=rate, units=units
        )


def _rate(dataset: h5py.Dataset) -> float | None:
    try:
        return sample_rate_of(dataset)
    except DataError:
        return None  # where it is wanted, it is asked for again


def _there(opened: h5py.File) -> str:
    names = sorted(str(entry) for entry in entries(opened))
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"The file has [{', '.join(names[:10])}]{more}"


def _why_not_opened(file: Path, error: Exception) -> str:
    if not file.exists():
        return "does not exist"
    number = error.errno if isinstance(error, OSError) else None
    if not os.access(file, os.R_OK) or number in (errno.EACCES, errno.EPERM):
        return "cannot be read: permission denied"
    if not h5py.is_hdf5(file):
        return "is not an HDF5 file"
    if "truncated" in str(error):
        return f"is truncated: {error}"
    return f"cannot be opened; it may be damaged: {error}"


def _common(paths: Sequence[tuple[str, ...]]) -> list[str]:
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common
