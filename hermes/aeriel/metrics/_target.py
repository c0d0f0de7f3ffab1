"""Whether targets can be compared with a model's output, told before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from hermes.aeriel.client import ModelSpecification
from hermes.aeriel.files import DatasetFacts, InputFacts, RowPlan, open_input
from hermes.aeriel.metrics._metrics import METRICS
from hermes.errors import DataError, ParameterError

Shape = tuple[int, ...]

VALUES_AT_ONCE = 1 << 20

# The rows of one number: (rows,) and (rows, 1) are the same.
_ONE = ((), (1,))


def choose_output(there: Sequence[str], wanted: str) -> str:
    """Return the output to compare with the target; the only one where none is named.

    Raises
    ------
    ParameterError
        There is no such output, or none is named and there are several.
    """
    if wanted in there:
        return wanted
    if wanted or len(there) != 1:
        problem = f"{wanted!r} is not an output" if wanted else "has to be given"
        raise ParameterError("output_name", f"{problem}; the model's outputs are {list(there)}")
    return there[0]


def varies(output: str) -> ParameterError:
    """Return the error that says that there are no metrics of an output of varying length."""
    problem = f"{output!r} is of varying length, and metrics want as many numbers in every row"
    return ParameterError("output_name", f"{problem}; name another output, or leave target out")


def check_target(
    facts: InputFacts,
    metrics: Sequence[str],
    model: ModelSpecification | None,
    *,
    kept: Sequence[str],
    output_name: str,
    varying: Sequence[str],
    is_cut: bool,
) -> None:
    """Raise an error where a file's targets cannot be compared with a model's output.

    Parameters
    ----------
    facts
        The file.
    metrics
        The names of the metrics.
    model
        The model, where it is known before it is served.
    kept, output_name
        The outputs that are kept, or none for all, and the one to compare.
    varying
        The outputs of varying length.
    is_cut
        Whether the inputs are cut into windows.

    Raises
    ------
    DataError
        The targets are no numbers, or do not fit the output.
    ParameterError
        There is no such output, or no metric can be computed from it.
    """
    target = facts.target
    if target is None:
        return
    if target.dtype.kind not in "biuf":
        problem = f"is the target, and is {target}; {', '.join(metrics)} want numbers"
        raise DataError(file=str(target.file), dataset=target.path, problem=problem)
    there = list(kept or (() if model is None else model.outputs))
    named = output_name or (there[0] if len(there) == 1 else "")
    if named in varying:
        raise varies(named)
    # What windows make of a model without a batch dimension, only its answers tell.
    if model is not None and not (is_cut and model.max_batch_size == 0):
        output = choose_output(there, output_name)
        leading = model.max_batch_size == 0 and RowPlan.of(model, 0).with_row_axis
        rows = model.outputs[output].shape[1 if leading else 0 :]
        _check_shape(target, metrics, rows)


def check_finite_targets(files: Iterable[InputFacts], metrics: Sequence[str]) -> None:
    """Raise an error where a target is NaN or infinite, before anything is inferred.

    Parameters
    ----------
    files
        The input files.
    metrics
        The names of the metrics; ``reference`` alone takes any number.

    Raises
    ------
    DataError
        It names the file, the dataset and the first such row.
    """
    if not set(metrics) - {"reference"}:
        return
    for facts in files:
        if facts.target is None or facts.target.dtype.kind != "f":
            continue
        path, shape = facts.target.path, facts.target.shape
        n_rows = max(1, VALUES_AT_ONCE // max(1, math.prod(shape[1:])))
        with open_input(facts.target.file) as opened:
            for start in range(0, shape[0], n_rows):
                is_finite = np.isfinite(opened[path][start : start + n_rows])
                if not is_finite.all():
                    row = start + int(np.argwhere(~is_finite)[0][0])
                    value = opened[path][row]
                    problem = f"is the target, and row {row} of it is {value}; metrics want numbers"
                    raise DataError(file=str(facts.target.file), dataset=path, problem=problem)


def _check_shape(target: DatasetFacts, metrics: Sequence[str], output: Shape) -> None:
    given = target.shape[1:]
    for name in metrics:
        of_classes = name not in METRICS or METRICS[name].kind == "classification"
        if of_classes and len(output) > 1:
            problem = f"{name} wants an output of one number, or one for each class, a row"
            raise ParameterError("metrics", f"{problem}; the model's has rows of shape {output}")
        if of_classes:
            # Predictions that are labels have as many classes as one-hot targets say.
            is_labels, is_one_column = given in _ONE, output in _ONE
            fits = is_labels or (len(given) == 1 and (is_one_column or _equal(given, output)))
            wanted = f"labels, a number a row, or one-hot rows of shape {output or (2,)}"
        else:
            fits = _equal(given or (1,), output or (1,))
            wanted = f"rows of shape {output}, as the model's output has them"
        if not fits:
            problem = f"is the target, and has rows of shape {given}; {name} wants {wanted}"
            raise DataError(file=str(target.file), dataset=target.path, problem=problem)


def _equal(given: Shape, wanted: Shape) -> bool:
    pairs = zip(given, wanted, strict=False)
    return len(given) == len(wanted) and all(want in (-1, have) for have, want in pairs)
