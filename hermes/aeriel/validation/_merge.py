"""Many files of predictions as one, streamed, with an index back to where each row came from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hermes._files import as_output_errors
from hermes.aeriel.files import (
    OutputFile,
    as_data_errors,
    check_unchanged,
    create_rows,
    flat_paths,
    members,
    open_input,
    parts_of,
    read_attributes,
)
from hermes.aeriel.validation._index import BLOCK_BYTES, INDEX, START_TIME, Index, Part
from hermes.errors import DataError, ParameterError

TARGET = "target"
INPUT_STAMP = "input_stamp"
NOT_FINITE = ("not_finite_inputs", "not_finite_outputs")


def merge(
    parts: Sequence[Part],
    output_file: Path,
    *,
    target: str | None,
    target_files: Sequence[tuple[Path, str]] = (),
    fingerprint: str,
    attributes: Mapping[str, str],
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the predictions of all parts into one HDF5 file, which appears whole or not at all.

    It has a dataset per output with the rows of all parts, one after the other, and the attributes
    in which the parts agree; an output of varying length has a group with its values and their
    offsets, as in the parts; the group ``index`` with ``files`` (the input files; with an axis of
    channels, where each channel has a file), ``offsets`` (the first row of each, and the number of
    rows), and for each row ``file`` (its place in ``files``) and ``row`` (its row there); and
    ``target``, if one is named. Where the rows are windows at known times, ``index/start_time`` has
    the time of the first row of each file, NaN where it is not known, in seconds.

    Where rows were left out, ``index/rows`` says how many rows each file has, and ``index/time``
    has the time of each row that is there, in seconds, NaN where it is not known; ``rows`` and
    ``rows_kept`` at the root are the numbers for all files.

    ``not_finite_inputs`` and ``not_finite_outputs`` at its root say, as JSON, how many values of
    each were NaN or infinite.

    Parameters
    ----------
    parts
        The files, in the order that their rows are to have.
    output_file
        The file to write.
    target
        The path of a dataset to put beside the predictions.
    target_files
        The file that it is in, for each part, and what `file_stamp` said of it; where there are
        none, it is in each input file.
    fingerprint
        Stands for everything that the result depends on.
    attributes
        Attributes to write at the root.
    on_progress
        Called with the rows done and the rows in all.

    Raises
    ------
    DataError
        A part cannot be read, does not fit the others, or its input is not what it was when the
        predictions were made.
    ParameterError
        A target is named, and rows were left out; or an output has a name that the merged file
        uses itself.
    OutputError
        The file cannot be written.
    """
    output = OutputFile(output_file)
    try:
        with as_output_errors(output_file):
            _merge_into(output.create(), parts, target, target_files, on_progress)
            output.write_attributes(output.hdf5, dict(attributes))
            output.publish(fingerprint)
    finally:
        output.discard()


def _merge_into(
    merged: OutputFile,
    parts: Sequence[Part],
    target: str | None,
    target_files: Sequence[tuple[Path, str]],
    on_progress: Callable[[int, int], None],
) -> None:
    index = Index(merged, parts)
    if target is not None:
        check_all_rows(target, is_selected=index.is_selected, n_slides=index.n_slides)
    agreed: dict[str, dict[str, Any]] = {}
    not_finite: dict[str, Counter[str]] = {name: Counter() for name in NOT_FINITE}
    for number, part in enumerate(parts):
        with open_input(part.predictions) as opened:
            said = read_attributes(opened, (INPUT_STAMP, *NOT_FINITE))
            for name, counts in not_finite.items():
                counts.update(json.loads(said.get(name, "{}")))
            _copy_outputs(merged, index, number, opened, agreed)
        start = int(index.offsets[number])
        if target is not None:
            file, given = target_files[number] if target_files else (part.input_files[0], None)
            with open_input(file) as opened, as_data_errors(file, target):
                _copy(merged, TARGET, opened[target], part.rows, start=start, total=index.total)
            if given is not None:
                check_unchanged([file], given)
        # Targets of another input than the predictions' would be compared with them.
        if said.get(INPUT_STAMP):
            check_unchanged(part.input_files, said[INPUT_STAMP])
        on_progress(start + part.stored, index.total)
    merged.write_attributes(
        merged.hdf5, {name: json.dumps(counts) for name, counts in not_finite.items()}
    )
    for name, attributes in agreed.items():
        merged.write_attributes(merged.hdf5[name], attributes)
    index.finish()


def _copy_outputs(
    merged: OutputFile,
    index: Index,
    number: int,
    opened: h5py.File,
    agreed: dict[str, dict[str, Any]],
) -> None:
    """Copy the outputs of a part, and keep the attributes in which it agrees with those before."""
    part, start = index.parts[number], int(index.offsets[number])
    outputs = members(opened)
    if index.is_selected:
        index.add(number, _rows_of(part, outputs))
    if number and outputs.keys() != agreed.keys():
        problem = f"has the outputs {sorted(outputs)}, but the files before {sorted(agreed)}"
        raise DataError(file=str(part.predictions), problem=problem)
    check_output_names(outputs)
    for name, dataset in outputs.items():
        if isinstance(dataset, h5py.Group):
            _copy_varying(merged, name, opened, index.parts, number=number, start=start)
        else:
            _copy(merged, name, dataset, part.stored, start=start, total=index.total)
        attributes = dict(dataset.attrs)
        index.set_times(number, attributes)
        # Of the part alone: the rows of the next one begin at another time.
        attributes.pop(START_TIME, None)
        agreed[name] = _in_both(agreed.get(name, attributes), attributes)


def _rows_of(part: Part, outputs: dict[str, Any]) -> h5py.Group:
    """Return the numbers and times of the rows of a part, and take them out of what it has."""
    index = outputs.pop(INDEX, None)
    if part.rows_kept is None or not isinstance(index, h5py.Group):
        problem = "has all rows of its input, but other files have some; make them all anew"
        raise DataError(file=str(part.predictions), problem=problem)
    return index


def check_all_rows(target: str, *, is_selected: bool, n_slides: int = 1) -> None:
    """Raise ParameterError where there are targets, and rows are left out, or of time slides.

    What was measured on some of the rows alone would be read as if it were of all; and the rows of
    a slide are not those that the targets are of.
    """
    if n_slides > 1:
        raise ParameterError("target", "does not go with time slides, which have no targets")
    if is_selected:
        problem = f"{target!r} is compared with all rows, but rows are left out"
        raise ParameterError("target", f"{problem}; leave out keep, or target")


def check_output_names(outputs: Iterable[str]) -> None:
    """Raise ParameterError where an output has a name that the merged file uses itself."""
    for name in outputs:
        if name in (INDEX, TARGET):
            problem = f"{name!r} has a name that the merged file uses itself"
            raise ParameterError("outputs", f"{problem}; rename this output, or leave it out")


def _copy_varying(
    merged: OutputFile,
    name: str,
    source: h5py.File,
    parts: Sequence[Part],
    *,
    number: int,
    start: int,
) -> None:
    offsets_path, values_path = flat_paths(name)
    rows = parts[number].rows
    offsets, values = _varying(source, name, rows)
    if name not in merged.hdf5:
        create_rows(merged, name, sum(part.rows for part in parts))
        n_values = sum(_n_values(part, name) for part in parts)
        merged.create_dataset(values_path, (n_values, *values.shape[1:]), values.dtype)
    elif isinstance(merged.hdf5[name], h5py.Dataset):
        problem = "is of varying length, but not in the files before"
        raise DataError(file=source.filename, dataset=name, problem=problem)
    first, n_values = int(merged.hdf5[offsets_path][start]), len(merged.hdf5[values_path])
    _copy(merged, values_path, values, len(values), start=first, total=n_values)
    step = BLOCK_BYTES // 8
    for begin in range(1, rows + 1, step):
        shifted = first + offsets[begin : min(begin + step, rows + 1)]
        merged.write(offsets_path, start + begin, shifted)


def _n_values(part: Part, name: str) -> int:
    with open_input(part.predictions) as opened:
        return len(_varying(opened, name, part.rows)[1])


def _varying(source: h5py.File, name: str, rows: int) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Return the offsets and the values of an output of varying length."""
    offsets, values = (source.get(path) for path in flat_paths(name))
    is_whole = (
        isinstance(offsets, h5py.Dataset)
        and isinstance(values, h5py.Dataset)
        and offsets.shape == (rows + 1,)
        and (offsets[0], offsets[-1]) == (0, len(values))
    )
    if not is_whole:
        problem = f"is not {rows} rows of varying length, with offsets and values"
        raise DataError(file=source.filename, dataset=name, problem=problem)
    return offsets, values


def _copy(
    merged: OutputFile, name: str, source: h5py.Dataset, rows: int, *, start: int, total: int
) -> None:
    destination = merged.dataset(name)
    if destination is None:
        merged.create_dataset(name, (total, *source.shape[1:]), source.dtype)
        destination = merged.dataset(name)
    if (source.shape, source.dtype) != ((rows, *destination.shape[1:]), destination.dtype):
        given = f"is {source.dtype} of shape {source.shape}"
        wanted = f"{destination.dtype} of shape {(rows, *destination.shape[1:])}"
        raise DataError(file=source.file.filename, dataset=name, problem=f"{given}, not {wanted}")
    if source.dtype.kind == "O" and h5py.check_string_dtype(source.dtype) is None:
        merged.keep_bytes(name)
    for begin, array in parts_of(source, BLOCK_BYTES):
        merged.write(name, start + begin, array)


def _in_both(some: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in some.items()
        if name in others and np.array_equal(value, others[name])
    }
