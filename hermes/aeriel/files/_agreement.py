"""Whether input files agree with each other, and with a model."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

import h5py
import numpy as np

from hermes.aeriel.files._facts import DatasetFacts, InputFacts, RowInputs, describe_dtype
from hermes.aeriel.files._varying import describe_shape
from hermes.errors import DataError, ParameterError


def check_agreement(files: Sequence[InputFacts], *, with_rates: bool = True) -> None:
    """Raise DataError where a file's datasets differ from the first file's.

    Parameters
    ----------
    files
        What `inspect` found: the shape and dtype of the rows, and the sample rate.
    with_rates
        Whether sample rates have to agree; not where another one was given.
    """
    first = files[0]
    rates: dict[str, DatasetFacts] = {}  # the first dataset of each input that says one
    units: dict[str, DatasetFacts] = {}
    for other in files:
        both = first.datasets.keys() & other.datasets.keys()  # an optional input may be missing
        pairs = {name: (first.datasets[name], other.datasets[name]) for name in sorted(both)}
        if first.target is not None and other.target is not None:
            pairs[""] = first.target, other.target
        for name, (expected, given) in pairs.items():
            if with_rates and given.sample_rate:
                known = rates.setdefault(name, given)
                if not math.isclose(given.sample_rate, known.sample_rate or 0.0):
                    problem = f"has a sample rate of {given.sample_rate}"
                    problem = f"{problem}, but {known.file} has {known.sample_rate}"
                    advice = "resample the data, or give sample_rate where the files are wrong"
                    raise _disagrees(given, f"{problem}; {advice}")
            if given.units and given.units != (known := units.setdefault(name, given)).units:
                problem = f"has units {given.units!r}, but {known.file} has {known.units!r}"
                raise _disagrees(given, f"{problem}; all inputs have to agree")
            if (given.shape[1:], given.dtype) != (expected.shape[1:], expected.dtype):
                wanted = f"rows of {describe_dtype(expected.dtype)} {expected.shape[1:]}"
                problem = (
                    f"has rows of {describe_dtype(given.dtype)} {given.shape[1:]}, "
                    f"but {first.file} has {wanted}"
                )
                raise _disagrees(given, f"{problem}; all inputs have to agree")


def _disagrees(given: DatasetFacts, problem: str) -> DataError:
    return DataError(file=str(given.file), dataset=given.path, problem=problem)


def check_against_model(facts: InputFacts, inputs: RowInputs, *, cast: bool = False) -> None:
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
            raise unknown_input(
                name, [each.path for each in facts.datasets[name].locations], inputs
            )
    for name, (shape, dtype) in inputs.items():
        if name not in facts.datasets:
            continue
        dataset = facts.datasets[name]
        row = dataset.shape[1:]
        has_rank = len(row) == len(shape)
        has_shape = has_rank and all(
            want in (-1, have) for want, have in zip(shape, row, strict=True)
        )
        if has_shape and is_readable_as(dataset.dtype, dtype, cast=cast):
            continue
        rows = f"{describe_dtype(dtype)} {describe_shape(shape)}"
        wanted = f"the model's input {name!r} wants rows of {rows}"
        given = f"has rows of {describe_dtype(dataset.dtype)} {row}"
        problem = f"{given}; {wanted}"
        if not has_rank:
            problem = f"{given}, of rank {len(row)}; {wanted}, of rank {len(shape)}"
        elif has_shape:
            problem += ". Convert the dataset, or export the model for its dtype"
            if is_readable_as(dataset.dtype, dtype, cast=True):
                problem += f"; or give cast, to round it to {describe_dtype(dtype)} as it is read"
        raise DataError(file=str(dataset.file), dataset=dataset.path, problem=problem)


def unknown_input(name: str, paths: Collection[str], inputs: Collection[str]) -> ParameterError:
    """Return the error that says that a map names an input that the model does not have.

    Parameters
    ----------
    name, paths
        What the map has.
    inputs
        The names of the model's inputs.
    """
    problem = f"{name!r}: the model has no such input; it has {sorted(inputs)}"
    if reversed_inputs := sorted(set(paths) & set(inputs)):
        right = json.dumps({reversed_inputs[0]: name})
        problem += f". The model's input comes first, then the dataset: {right}"
    return ParameterError("input_map", problem)


def is_readable_as(given: np.dtype[Any], wanted: np.dtype[Any], *, cast: bool) -> bool:
    """Tell whether a dataset can be read as a dtype without losing anything.

    With `cast`, a floating-point dtype may round it. Integers stay exact: what does not fit into a
    smaller one would become another number.
    """
    if wanted == np.dtype(object):
        # Bytes that are no text (images) are integers of varying length in HDF5.
        is_bytes = h5py.check_vlen_dtype(given) == np.uint8
        return is_bytes or h5py.check_string_dtype(given) is not None
    may_round = cast and wanted.kind == "f"
    return given.kind != "O" and np.can_cast(given, wanted, "same_kind" if may_round else "safe")
