"""What is to be done with a file: the check before a run, and the run itself, find it out here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import ModelSpecification
from hermes.aeriel.files._agreement import check_against_model
from hermes.aeriel.files._facts import InputFacts
from hermes.aeriel.files._inputs import inspect
from hermes.aeriel.files._rows import RowPlan
from hermes.aeriel.files._sequences import SequencePlan, check_sequences
from hermes.aeriel.files._series import SeriesPlan
from hermes.aeriel.files._values import parse_finite
from hermes.aeriel.files._window_options import WindowOptions


@dataclass(frozen=True, kw_only=True)
class InferencePlan:
    """How a file goes through a model.

    Parameters
    ----------
    facts
        What is known of the file.
    cut
        How its series are cut into windows; None where it has rows.
    requests
        How its rows, or windows, become requests.
    order
        In which order the requests are sent: `requests` itself, or its sequences.
    """

    facts: InputFacts
    cut: WindowOptions | None
    requests: RowPlan | SeriesPlan
    order: RowPlan | SeriesPlan | SequencePlan


def examine(
    files: Path | Sequence[Path],
    options: InferenceOptions,
    model: ModelSpecification | None,
    *,
    target: str | None = None,
) -> InputFacts:
    """Return what is known of an input, after checking what can be checked of it alone.

    Parameters
    ----------
    files
        An HDF5 file; or several, each of which has one channel of every series.
    options
        How they are to be read.
    model
        The model, if it is known already.
    target
        The dataset with the targets, if any.

    Raises
    ------
    ParameterError
        An option cannot be right.
    DataError
        The input cannot be used.
    """
    parse_finite(options.finite)
    return inspect(
        files,
        options.input_map,
        model_inputs=None if model is None else list(model.inputs),
        optional=() if model is None else model.optional_inputs,
        target=target,
        cut=WindowOptions.of(options),
        allow_external_data=options.allow_external_data,
    )


def plan(facts: InputFacts, options: InferenceOptions, model: ModelSpecification) -> InferencePlan:
    """Return how a file goes through a model.

    Raises
    ------
    DataError
        The file cannot be used with this model.
    ParameterError
        The model does not take so many rows at once, has no sequences, lacks an output, or does not
        announce just one free length in a row of an output of varying length.
    """
    model.check_outputs(options.outputs)
    check_sequences(options.rows_per_sequence, model.name, stateful=model.stateful)
    cut = WindowOptions.of(options)
    rows = RowPlan.of(model, options.batch_size, varying=options.varying, kept=options.outputs)
    requests = SeriesPlan.of(rows, facts, cut, stateful=model.stateful) if cut else rows
    check_against_model(facts, requests.inputs, cast=options.cast)
    order: RowPlan | SeriesPlan | SequencePlan = requests
    if model.stateful:
        order = SequencePlan(
            requests=requests,
            rows_per_sequence=options.rows_per_sequence or facts.rows,
            in_order=bool(requests.varying),
        )
    return InferencePlan(facts=facts, cut=cut, requests=requests, order=order)
