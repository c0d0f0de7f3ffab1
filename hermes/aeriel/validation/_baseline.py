"""The predictions of an earlier validation, to compare new ones with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hermes.aeriel._options import ValidationOptions
from hermes.aeriel.files import InputFacts, fingerprint_of, open_input, output_name, parts_of
from hermes.aeriel.metrics import Comparison, MetricsResult, compare_predictions
from hermes.aeriel.validation._index import BLOCK_BYTES, INDEX
from hermes.aeriel.validation._merge import TARGET
from hermes.aeriel.validation._validation import measure, output_in
from hermes.errors import ParameterError

MERGED = "merged.h5"


def find_baseline(baseline: str) -> Path:
    """Return the merged file of an earlier validation.

    Parameters
    ----------
    baseline
        Its output directory, or the file itself.

    Raises
    ------
    ParameterError
        There is no such file, or it is without targets.
    """
    file = Path(baseline)
    file = file / MERGED if file.is_dir() else file
    if fingerprint_of(file) is None:
        problem = f"{file} is not there, or is no merged file"
        raise ParameterError("baseline", f"{problem}; give the output directory of a Validate")
    with h5py.File(file, "r") as merged:
        if TARGET not in merged:
            raise ParameterError("baseline", f"{file} was made without a target; give it one")
    return file


def find_same_rows(baseline: str, inputs: Sequence[InputFacts], directory: Path) -> Path:
    """Return the merged file of an earlier validation, which has to be of the same rows.

    Parameters
    ----------
    baseline
        Its output directory, or the file itself.
    inputs
        What is known of the inputs.
    directory
        The output directory of this validation.

    Raises
    ------
    ParameterError
        There is none, it is not of the same rows, or is that of this validation.
    """
    file = find_baseline(baseline).absolute()
    if file.parent == directory:
        problem = f"is the output directory, {file.parent}; give another"
        raise ParameterError("baseline", problem)
    _check_same_rows(file, inputs)
    return file


def _check_same_rows(file: Path, inputs: Sequence[InputFacts]) -> None:
    """Check that a baseline has predictions for the same rows, before anything runs.

    The files have to have the same names (in whatever directories) and numbers of rows, in the same
    order, and the same targets.

    Raises
    ------
    ParameterError
        They have not; the message names the first difference.
    """
    with h5py.File(file, "r") as merged:
        files = merged[f"{INDEX}/files"].asstr()[:]
        # With a file for each channel, the first has the targets.
        names = [Path(name).name for name in files.reshape(len(files), -1)[:, 0]]
        offsets = merged[f"{INDEX}/offsets"][:].tolist()
        there = list(zip(names, np.diff(offsets).tolist(), strict=True))
        wanted = [(facts.file.name, facts.rows) for facts in inputs]
        for has, wants in zip_longest(there, wanted):
            if has != wants:
                problem = f"it has {_words(has)} where the inputs have {_words(wants)}"
                raise _other_rows(file, problem)
        for facts, start in zip(inputs, offsets, strict=False):
            _check_targets(file, merged[TARGET], facts, start)


def compare_with(
    file: Path,
    merged_file: Path,
    result: MetricsResult,
    metrics: Sequence[str],
    options: ValidationOptions,
) -> Comparison:
    """Return how predictions compare with those of a baseline.

    Parameters
    ----------
    file
        The baseline's merged file.
    merged_file, result
        The new predictions, and their metrics.
    metrics
        What was computed of them.
    options
        What they were measured by. The baseline's output has the same name; or is its only one.

    Raises
    ------
    ParameterError
        The baseline has several outputs, and none of this name.
    DataError
        A metric cannot be computed from its predictions.
    """
    with ExitStack() as stack:
        new, old = (stack.enter_context(h5py.File(each, "r")) for each in (merged_file, file))
        predictions = output_in(new, options.output_name)
        was = output_in(old, _name_of(predictions), is_baseline=True)
        baseline = measure(file, metrics, replace(options, output_name=_name_of(was)))
        return compare_predictions(
            result, baseline, predictions, was, new[TARGET], scores=options.scores
        )


def describe_baseline(file: Path) -> dict[str, Any]:
    """Return ``model`` and ``merged_predictions`` of a baseline's merged file, for a report."""
    with h5py.File(file, "r") as merged:
        return {"model": merged.attrs["model_name"], "merged_predictions": file}


def _name_of(output: h5py.Dataset) -> str:
    return output_name(output.name.lstrip("/"))


def _check_targets(file: Path, targets: h5py.Dataset, facts: InputFacts, start: int) -> None:
    if facts.target is None or targets.shape[1:] != facts.target.shape[1:]:
        problem = f"its targets have rows of shape {targets.shape[1:]}"
        given = None if facts.target is None else facts.target.shape[1:]
        raise _other_rows(file, f"{problem}, those of {facts.file} have {given}")
    with open_input(facts.target.file) as opened:
        for begin, block in parts_of(opened[facts.target.path], BLOCK_BYTES):
            first = start + begin
            differs = _differs(block, targets[first : first + len(block)])
            if differs.any():
                row = begin + int(differs.argmax())
                raise _other_rows(file, f"row {row} of {facts.file} has another target there")


def _differs(some: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which rows differ; NaN is the same as NaN."""
    same = (some == others) | ((some != some) & (others != others))  # noqa: PLR0124 (NaN is not)
    result: npt.NDArray[np.bool_] = ~same.reshape(len(some), -1).all(axis=1)
    return result


def _words(file: tuple[str, int] | None) -> str:
    return "no further file" if file is None else f"{file[0]} with {file[1]} rows"


def _other_rows(file: Path, problem: str) -> ParameterError:
    return ParameterError(
        "baseline",
        f"{file} is not of the same rows: {problem}; validate the baseline on these inputs first",
    )
