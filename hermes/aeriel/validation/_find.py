"""Files of predictions that are there already, and what they have to agree in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.aeriel.files import (
    InputFacts,
    check_unchanged,
    find_files,
    find_target_files,
    inspect,
)
from hermes.aeriel.validation._merge import check_all_rows
from hermes.aeriel.validation._run import MergeJob
from hermes.aeriel.validation._validation import FilePredictions
from hermes.errors import DataError, ParameterError

# How a file was read may differ from file to file only in this: the shifts are those of a slide.
_OWN_OPTIONS = ("input_map", "shifts")
_OF_THE_MODEL = ("model_name", "model_version")


def find_predictions(patterns: Sequence[str]) -> list[FilePredictions]:
    """Return what the files say that paths and glob patterns name, sorted by their paths.

    Raises
    ------
    ParameterError
        There is no pattern, or one matches no file.
    DataError
        A file holds no predictions, or was made with another model, or other options, than those
        before; two of them are of the same input; or an input was changed since.
    """
    found = [FilePredictions.read(file) for file in find_files(patterns, of_results=True)]
    first = found[0]
    inputs: dict[Any, Path] = {}
    for each in found:
        other = inputs.setdefault((each.file, each.shifts), each.path)
        if other != each.path:
            problem = f"holds predictions for {each.file}, as {other} does; name one of them"
            raise DataError(file=str(each.path), problem=problem)
        for name, value in _facts(each).items():
            before = _facts(first).get(name, value)
            if value != before:
                problem = f"was made with {name} {value!r}, but {first.path} with {before!r}"
                raise DataError(file=str(each.path), problem=problem)
        _check_input(each)
    return found


def merge_job(
    found: Sequence[FilePredictions], output_file: Path, inputs: Sequence[InputFacts]
) -> MergeJob:
    """Return what it takes to have predictions in one file.

    Parameters
    ----------
    found
        What `find_predictions` returned.
    output_file
        The file to write.
    inputs
        What `inputs_with_targets` returned.
    """
    targets = [each.target for each in inputs if each.target is not None]
    in_inputs = all(each.target is not None and each.target.file in each.files for each in inputs)
    return MergeJob(
        predictions=[each.path for each in found],
        fingerprints=[each.fingerprint for each in found],
        output_file=output_file,
        target=targets[0].path if targets else "",
        target_files=() if in_inputs else [target.file for target in targets],
        model_name=str(found[0].attributes["model_name"]),
    )


def inputs_with_targets(
    found: Sequence[FilePredictions], target: str, target_file: str = ""
) -> list[InputFacts]:
    """Return what is known of the inputs and their targets; nothing where no target is named.

    Parameters
    ----------
    found
        What `find_predictions` returned.
    target
        The dataset with the targets.
    target_file
        The file that it is in, as `find_target_files` has it; where it is empty, each input file.

    Raises
    ------
    ParameterError
        A file is named without a dataset, or is not one for each input; or the predictions leave
        rows out, or are of several time slides.
    DataError
        A file cannot be read, has no such dataset, or has another number of rows.
    """
    check_targets_named(target, target_file)
    if not target:
        return []
    check_all_rows(
        target,
        is_selected=any(each.rows_kept is not None for each in found),
        n_slides=len({each.shifts for each in found}),
    )
    inputs = [each.input_files for each in found]
    files = find_target_files(target_file, inputs) if target_file else [each[0] for each in inputs]
    return [_with_target(each, target, file) for each, file in zip(found, files, strict=True)]


def check_targets_named(target: str, target_file: str) -> None:
    """Raise ParameterError where a file of targets is named, but not the dataset in it."""
    if target_file and not target:
        problem = f"is not given, but {target_file!r} is to have the targets"
        raise ParameterError("target", f"{problem}; name the dataset in it")


def _with_target(predictions: FilePredictions, target: str, file: Path) -> InputFacts:
    facts = inspect(file, {"": target}, target=target)
    if facts.rows != predictions.rows:
        problem = f"has {facts.rows} rows, but {predictions.file} has {predictions.rows}"
        raise DataError(file=str(file), dataset=target, problem=problem)
    return replace(facts, files=predictions.input_files)


def _facts(predictions: FilePredictions) -> dict[str, object]:
    """Return what predictions have to agree in, as far as the file says it."""
    attributes = predictions.attributes
    facts: dict[str, object] = {name: attributes[name] for name in _OF_THE_MODEL}
    facts["files of an input"] = len(predictions.input_files)
    facts["hooks"] = str(attributes.get("hooks", ""))[:12]
    if "model_repository" in attributes:  # else the files of the model were not known
        facts["model_stamp"] = attributes["model_stamp"]
    options = json.loads(attributes.get("options", "{}"))
    return {**facts, **{name: value for name, value in options.items() if name not in _OWN_OPTIONS}}


def _check_input(predictions: FilePredictions) -> None:
    for file in predictions.input_files:
        if not file.exists():
            problem = f"is gone, but {predictions.path} holds predictions for it"
            raise DataError(file=str(file), problem=problem)
    try:
        check_unchanged(predictions.input_files, predictions.attributes["input_stamp"])
    except DataError as error:
        problem = f"is not what {predictions.path} holds predictions for any more; make them again"
        raise DataError(file=predictions.file, problem=problem) from error
