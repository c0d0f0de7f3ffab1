"""Many files of predictions as one, streamed, with an index back to where each row came from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes._files import as_output_errors
from hermes.aeriel.files import (
    OutputFile,
    as_data_errors,
    check_unchanged,
    create_rows,
    flat_paths,
    open_input,
    parts_of,
)
from hermes.errors import DataError

BLOCK_BYTES = 16 << 20
TARGET = "target"
INDEX = "index"
START_TIME = "start_time"
SAMPLE_RATE = "sample_rate"
NOT_FINITE = ("not_finite_inputs", "not_finite_outputs")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file to merge.

    Parameters
    ----------
    input_files
        Where the rows came from: a file, or several, each with one channel of every series.
    predictions
        The file with its predictions.
    rows
        How many rows it has.
    """

    input_files: tuple[Path, ...]
    predictions: Path
    rows: int


def merge(
    parts: Sequence[Part],
    output_file: Path,
    *,
    target: str | None,
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
    ``not_finite_inputs`` and ``not_finite_outputs`` at its root say, as JSON, how many values of
    each were NaN or infinite.

    Parameters
    ----------
    parts
        The files, in the order that their rows are to have.
    output_file
        The file to write.
    target
        The path of a dataset in each input file to put beside the predictions.
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
    OutputError
        The file cannot be written.
    """
    output = OutputFile(output_file)
    try:
        with as_output_errors(output_file):
            _merge_into(output.create(), parts, target, on_progress)
            output.write_attributes(output.hdf5, dict(attributes))
            output.publish(fingerprint)
    finally:
        output.discard()


def _merge_into(
    merged: OutputFile,
    parts: Sequence[Part],
    target: str | None,
    on_progress: Callable[[int, int], None],
) -> None:
    offsets = np.cumsum([0, *(part.rows for part in parts)], dtype=np.int64)
    total = int(offsets[-1])
    agreed: dict[str, dict[str, Any]] = {}
    not_finite: dict[str, Counter[str]] = {name: Counter() for name in NOT_FINITE}
    start_times = np.full(len(parts), np.nan)
    for number, (part, start) in enumerate(zip(parts, offsets[:-1].tolist(), strict=True)):
        with open_input(part.predictions) as opened:
            stamp = opened.attrs.get("input_stamp")
            for name, counts in not_finite.items():
                counts.update(json.loads(opened.attrs.get(name, "{}")))
            if number and opened.keys() != agreed.keys():
                problem = f"has the outputs {sorted(opened)}, but the files before {sorted(agreed)}"
                raise DataError(file=str(part.predictions), problem=problem)
            for name, dataset in opened.items():
                if name in (INDEX, TARGET):
                    problem = f"output {name!r} has a name that the merged file uses itself"
                    raise DataError(file=str(part.predictions), problem=problem)
                if isinstance(dataset, h5py.Group):
                    _copy_varying(merged, name, opened, parts, number=number, start=start)
                else:
                    _copy(merged, name, dataset, part.rows, start=start, total=total)
                attributes = dict(dataset.attrs)
                _check_rate(part, name, attributes, agreed.get(name, {}))
                # Of the part alone: the rows of the next one begin at another time.
                start_times[number] = attributes.pop(START_TIME, np.nan)
                agreed[name] = _in_both(agreed.get(name, attributes), attributes)
        if target is not None:
            damaged = as_data_errors(part.input_files[0], target)
            with open_input(part.input_files[0]) as opened, damaged:
                _copy(merged, TARGET, opened[target], part.rows, start=start, total=total)
        # Targets of another input than the predictions' would be compared with them.
        if stamp:
            check_unchanged(part.input_files, stamp)
        on_progress(start + part.rows, total)
    merged.write_attributes(
        merged.hdf5, {name: json.dumps(counts) for name, counts in not_finite.items()}
    )
    for name, attributes in agreed.items():
        merged.write_attributes(merged.hdf5[name], attributes)
    _write_index(merged, parts, offsets, start_times)


def _write_index(
    merged: OutputFile,
    parts: Sequence[Part],
    offsets: NDArray[np.int64],
    start_times: NDArray[np.float64],
) -> None:
    total = int(offsets[-1])
    files = np.array([[str(file) for file in part.input_files] for part in parts], dtype=object)
    if files.shape[1] == 1:
        files = files[:, 0]
    merged.reserve(0, INDEX)
    merged.hdf5.create_group(INDEX)
    merged.create_dataset(f"{INDEX}/files", files.shape, h5py.string_dtype())
    merged.write(f"{INDEX}/files", 0, files)
    merged.create_dataset(f"{INDEX}/offsets", offsets.shape, offsets.dtype)
    merged.write(f"{INDEX}/offsets", 0, offsets)
    if not np.isnan(start_times).all():
        merged.create_dataset(f"{INDEX}/{START_TIME}", start_times.shape, start_times.dtype)
        merged.write(f"{INDEX}/{START_TIME}", 0, start_times)
    merged.create_dataset(f"{INDEX}/file", (total,), np.dtype(np.int32))
    merged.create_dataset(f"{INDEX}/row", (total,), np.dtype(np.int64))
    step = BLOCK_BYTES // 8
    for begin in range(0, total, step):
        rows = np.arange(begin, min(begin + step, total))
        numbers = np.searchsorted(offsets, rows, side="right") - 1
        merged.write(f"{INDEX}/file", begin, numbers)
        merged.write(f"{INDEX}/row", begin, rows - offsets[numbers])


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
    if name not in merged.hdf5:
        merged.create_dataset(name, (total, *source.shape[1:]), source.dtype)
    destination = merged.hdf5[name]
    if (source.shape, source.dtype) != ((rows, *destination.shape[1:]), destination.dtype):
        given = f"is {source.dtype} of shape {source.shape}"
        wanted = f"{destination.dtype} of shape {(rows, *destination.shape[1:])}"
        raise DataError(file=source.file.filename, dataset=name, problem=f"{given}, not {wanted}")
    if source.dtype.kind == "O" and h5py.check_string_dtype(source.dtype) is None:
        merged.keep_bytes(name)
    for begin, array in parts_of(source, BLOCK_BYTES):
        merged.write(name, start + begin, array)


def _check_rate(
    part: Part, name: str, attributes: Mapping[str, Any], others: Mapping[str, Any]
) -> None:
    rates = [each.get(SAMPLE_RATE) for each in (attributes, others)]
    if None not in rates and rates[0] != rates[1]:
        problem = f"has a sample rate of {rates[0]}, but the files before have {rates[1]}"
        raise DataError(file=str(part.predictions), dataset=name, problem=problem)


def _in_both(some: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in some.items()
        if name in others and np.array_equal(value, others[name])
    }
