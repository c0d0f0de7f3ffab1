"""The HDF5 files that go in: found, opened, and refused before anything starts."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hermes.errors import DataError, ParameterError

_MAGIC_CHARACTERS = set("*?[")


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a dataset without reading it."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

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
        There is no pattern, or one matches no file.
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
        found.update(files)
    return tuple(sorted(found))


def output_names(files: Sequence[Path]) -> list[str]:
    """Return a name for the predictions of each file: its path below what all have in common."""
    if len(files) == 1:
        return [files[0].with_suffix(".h5").name]
    common = Path(*_common([file.parent.parts for file in files]))
    return [str(file.relative_to(common)) for file in files]


@contextmanager
def open_input(file: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it.

    Raises
    ------
    DataError
        It is missing, unreadable, no HDF5 file, or truncated.
    """
    try:
        opened = h5py.File(file, "r")
    except OSError as error:
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
    shape_of: Callable[[h5py.Dataset], tuple[int, ...]] | None = None,
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
    shape_of
        Returns the shape, rows first, that an input is read in; by default it is the dataset's.

    Raises
    ------
    DataError
        It is no HDF5 file, lacks a dataset, has none or too many to choose from, has no rows, or
        its datasets have different numbers of rows.
    """
    with open_input(file) as opened:
        names = _complete_map(
            opened, file, input_map, model_inputs, optional=optional, target=target
        )
        datasets = {name: _facts(opened, file, path, shape_of) for name, path in names.items()}
        target_facts = None if target is None else _facts(opened, file, target)
    first = next(iter(datasets.values()))
    rows = first.shape[0]
    if rows == 0:
        raise DataError(file=str(file), dataset=first.path, problem="has no rows")
    for other in [*datasets.values(), *([target_facts] if target_facts else [])]:
        if other.shape[0] != rows:
            problem = f"has {other.shape[0]} rows, but {first.path!r} has {rows}"
            raise DataError(file=str(file), dataset=other.path, problem=problem)
    return InputFacts(file=file, rows=rows, datasets=datasets, target=target_facts)


def check_agreement(files: Sequence[InputFacts]) -> None:
    """Raise DataError where a file's datasets differ from the first file's in shape or dtype."""
    first = files[0]
    for other in files[1:]:
        both = first.datasets.keys() & other.datasets.keys()  # an optional input may be missing
        pairs = [(first.datasets[name], other.datasets[name]) for name in sorted(both)]
        if first.target is not None and other.target is not None:
            pairs.append((first.target, other.target))
        for expected, given in pairs:
            if (given.shape[1:], given.dtype) != (expected.shape[1:], expected.dtype):
                wanted = f"rows of {describe_dtype(expected.dtype)} {expected.shape[1:]}"
                problem = (
                    f"has rows of {describe_dtype(given.dtype)} {given.shape[1:]}, "
                    f"but {first.file} has {wanted}; all inputs have to agree"
                )
                raise DataError(file=str(other.file), dataset=given.path, problem=problem)


def check_against_model(
    facts: InputFacts,
    inputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    *,
    cast: bool = False,
) -> None:
    """Raise DataError where a file's datasets do not fit the model's inputs.

    Parameters
    ----------
    facts
        The file.
    inputs
        The shape of a row (-1: any length) and the dtype of each model input.
    cast
        Whether numbers may be rounded to the floating-point dtype of an input as they are read.
    """
    for name in facts.datasets:
        if name not in inputs:
            problem = f"the model has no such input; it has {sorted(inputs)}"
            raise ParameterError("input_map", f"{name!r}: {problem}")
    for name, (shape, dtype) in inputs.items():
        if name not in facts.datasets:
            continue
        dataset = facts.datasets[name]
        row = dataset.shape[1:]
        wanted = f"the model's input {name!r} wants rows of {describe_dtype(dtype)} {_any(shape)}"
        given = f"has rows of {describe_dtype(dataset.dtype)} {row}"
        problem = ""
        if len(row) != len(shape):
            problem = f"{given}, of rank {len(row)}; {wanted}, of rank {len(shape)}"
        elif any(want not in (-1, have) for want, have in zip(shape, row, strict=True)):
            problem = f"{given}; {wanted}"
        elif not is_readable_as(dataset.dtype, dtype, cast=cast):
            problem = f"{given}; {wanted}. Convert the dataset, or export the model for its dtype"
            if is_readable_as(dataset.dtype, dtype, cast=True):
                problem += f"; or give cast, to round it to {describe_dtype(dtype)} as it is read"
        if problem:
            raise DataError(file=str(facts.file), dataset=dataset.path, problem=problem)


def is_readable_as(given: np.dtype[Any], wanted: np.dtype[Any], *, cast: bool) -> bool:
    """Tell whether a dataset can be read as a dtype without losing anything.

    With `cast`, a floating-point dtype may round it. Integers stay exact: what does not fit into a
    smaller one would become another number.
    """
    if wanted == np.dtype(object):
        return h5py.check_string_dtype(given) is not None
    may_round = cast and wanted.kind == "f"
    return given.kind != "O" and np.can_cast(given, wanted, "same_kind" if may_round else "safe")


def describe_dtype(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name in a message."""
    return "string" if h5py.check_string_dtype(dtype) is not None else str(dtype)


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
        if name and name in opened:
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
    datasets = [path for path in dataset_paths(opened) if path != (target or "").strip("/")]
    if len(datasets) == 1:
        return datasets[0]
    problem = "has no dataset" if not datasets else f"has {len(datasets)} datasets {datasets[:10]}"
    advice = 'name the one for the model\'s input in input_map, as \'{"x": "/path"}\''
    raise DataError(file=str(file), problem=f"{problem}; {advice}")


def dataset_paths(opened: h5py.File) -> list[str]:
    """Return the paths of a file's datasets."""
    found: list[str] = []
    opened.visititems(
        lambda path, entry: found.append(path) if isinstance(entry, h5py.Dataset) else None
    )
    return found


def _facts(
    opened: h5py.File,
    file: Path,
    path: str,
    shape_of: Callable[[h5py.Dataset], tuple[int, ...]] | None = None,
) -> DatasetFacts:
    entry = opened.get(path)
    if entry is None:
        raise DataError(file=str(file), dataset=path, problem=f"not found. {_there(opened)}")
    if not isinstance(entry, h5py.Dataset):
        raise DataError(file=str(file), dataset=path, problem="is a group, not a dataset")
    if not entry.shape:
        raise DataError(file=str(file), dataset=path, problem="is a scalar; rows are wanted")
    shape = entry.shape if shape_of is None else shape_of(entry)
    return DatasetFacts(path=path, shape=shape, dtype=entry.dtype)


def _there(opened: h5py.File) -> str:
    paths = dataset_paths(opened)
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    return f"The file has {paths[:10]}{more}"


def _why_not_opened(file: Path, error: OSError) -> str:
    if not file.exists():
        return "does not exist"
    if not os.access(file, os.R_OK) or error.errno in (errno.EACCES, errno.EPERM):
        return "cannot be read: permission denied"
    if not h5py.is_hdf5(file):
        return "is not an HDF5 file"
    if "truncated" in str(error):
        return f"is truncated: {error}"
    return f"cannot be opened: {error}"


def _any(shape: tuple[int, ...]) -> str:
    lengths = ", ".join("any" if length == -1 else str(length) for length in shape)
    return f"({lengths}{',' if len(shape) == 1 else ''})"


def _common(paths: Sequence[tuple[str, ...]]) -> list[str]:
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common
