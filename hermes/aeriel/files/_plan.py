"""What is to be done with a file: the check before a run, and the run itself, find it out here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hermes.aeriel._options import InferenceOptions, InputMap
from hermes.aeriel.client import InferenceClient, ModelSpecification
from hermes.aeriel.files._agreement import check_against_model, is_readable_as
from hermes.aeriel.files._condition import Condition
from hermes.aeriel.files._facts import InputFacts, RowInputs
from hermes.aeriel.files._hooks import NO_HOOKS, Hooks, check_hooks, variant_name
from hermes.aeriel.files._inputs import inspect
from hermes.aeriel.files._opening import OpenInputs, stamp_if_there
from hermes.aeriel.files._preprocessed import PreprocessedPlan
from hermes.aeriel.files._reading import InputData, open_data
from hermes.aeriel.files._rows import RowPlan
from hermes.aeriel.files._selection import Selection, select
from hermes.aeriel.files._sequences import SequencePlan, check_sequences
from hermes.aeriel.files._series import SeriesPlan
from hermes.aeriel.files._slides import check_one_slide
from hermes.aeriel.files._sources import MOST_KNOWN, reaches_none
from hermes.aeriel.files._values import parse_finite
from hermes.aeriel.files._window_options import WindowOptions

# What is known of inputs that reach no other files, for a worker that is forked from this process:
# while what stands for their files is the same, so are they.
_examined: dict[tuple[Any, ...], InputFacts] = {}


@dataclass(frozen=True, kw_only=True)
class InferencePlan:
    """How a file goes through a model.

    Parameters
    ----------
    facts
        What is known of the file.
    requests
        How its rows, or windows, become requests.
    order
        In which order the requests are sent: `requests` itself, by way of a hook, or as sequences.
    selection
        What becomes of the outputs; None where they are stored as they are.
    """

    facts: InputFacts
    requests: RowPlan
    order: RowPlan | PreprocessedPlan | SequencePlan
    selection: Selection | None = None

    def open(
        self,
        client: InferenceClient,
        options: InferenceOptions,
        opened: OpenInputs | None = None,
    ) -> AbstractContextManager[InputData]:
        """Open the file, to be read with the options that the plan was made with.

        `opened` are its files, where they are open already.

        Raises
        ------
        DataError
            It cannot be opened.
        """
        return open_data(
            self.facts,
            {name: self.requests.inputs[name][1] for name in self.facts.datasets},
            cut=WindowOptions.of(options),
            cast=options.cast,
            finite="inputs" in parse_finite(options.finite),
            n_readers=self.order.n_places(client) if isinstance(self.order, SequencePlan) else 1,
            opened=opened,
        )


def examine(
    files: Path | Sequence[Path],
    options: InferenceOptions,
    model: ModelSpecification | None,
    *,
    target: str | None = None,
    target_file: Path | None = None,
    hooks: Hooks = NO_HOOKS,
    opened: OpenInputs | None = None,
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
    target_file
        The file that it is in; by default the first file.
    hooks
        What is done to the rows. With a hook before the model, `input_map` names what that takes.
    opened
        The files, where they are open.

    Raises
    ------
    ParameterError
        An option cannot be right.
    DataError
        The input cannot be used.
    """
    parse_finite(options.finite)
    Condition.parse(options.keep)
    inputs = None if model is None else list(model.inputs)
    if hooks.preprocess is not None and options.input_map:
        inputs = list(options.input_map)
    files = (files,) if isinstance(files, Path) else tuple(files)
    cut = WindowOptions.of(options)
    # Before they are read: what is found is of these, or newer, and then kept for nobody.
    stamps = tuple(opened.stamps[file] if opened else stamp_if_there(file) for file in files)
    if target is None and inputs is not None and options.input_map.keys() == set(inputs):
        known = _examined.get(_key(stamps, options.input_map, cut, options))
        if known is not None:
            return replace(known, datasets={name: known.datasets[name] for name in inputs})
    facts = inspect(
        files,
        options.input_map,
        model_inputs=inputs,
        optional=() if model is None else model.optional_inputs,
        target=target,
        target_file=target_file,
        cut=cut,
        allow_external_data=options.allow_external_data,
        opened=opened,
    )
    if all(map(reaches_none, stamps)):
        if len(_examined) >= MOST_KNOWN:
            _examined.clear()
        found = {name: each.paths for name, each in facts.datasets.items()}
        _examined[_key(stamps, found, cut, options)] = replace(facts, target=None)
    return facts


def plan(
    facts: InputFacts,
    options: InferenceOptions,
    model: ModelSpecification,
    hooks: Hooks = NO_HOOKS,
) -> InferencePlan:
    """Return how a file goes through a model.

    Raises
    ------
    DataError
        The file cannot be used with this model.
    ParameterError
        The model does not take so many rows at once, has no sequences, lacks an output, or does not
        announce just one free length in a row of an output of varying length; or an option does not
        go with a hook.
    """
    model.check_outputs(options.outputs)
    check_sequences(options.rows_per_sequence, model.name, stateful=model.stateful)
    check_hooks(hooks, options, model)
    check_one_slide(options)
    cut = WindowOptions.of(options)
    rows = RowPlan.of(model, options.batch_size, varying=options.varying, kept=options.outputs)
    requests = SeriesPlan.of_windows(rows, facts, cut, stateful=model.stateful) if cut else rows
    order: RowPlan | PreprocessedPlan | SequencePlan
    if hooks.preprocess is None:
        check_against_model(facts, requests.inputs, cast=options.cast)
        order = requests
    else:
        wanted = requests.inputs
        requests = replace(requests, inputs=_as_in_file(facts))
        order = PreprocessedPlan(
            requests=requests,
            facts=facts,
            wanted=wanted,
            optional=model.optional_inputs,
            hooks=hooks,
        )
    keep = Condition.parse(options.keep)
    if keep is not None and hooks.postprocess is None:
        rows_of = _rows_of_outputs(model, options.outputs, with_row_axis=requests.with_row_axis)
        if hooks.variants:
            rows_of = {
                variant_name(variant, name): row
                for variant in hooks.variants
                for name, row in rows_of.items()
            }
        keep.check(rows_of)
    rows_per_sequence = facts.rows
    if model.stateful:
        rows_per_sequence = options.rows_per_sequence or facts.rows
        in_order = bool(requests.varying or hooks.given or keep)
        order = SequencePlan(requests=order, rows_per_sequence=rows_per_sequence, in_order=in_order)
    selection = select(
        model,
        options.outputs,
        hooks,
        keep,
        rows_per_request=requests.rows_per_request,
        rows_per_sequence=rows_per_sequence,
    )
    return InferencePlan(facts=facts, requests=requests, order=order, selection=selection)


def _key(
    stamps: tuple[str, ...],
    input_map: InputMap,
    cut: WindowOptions | None,
    options: InferenceOptions,
) -> tuple[Any, ...]:
    """Return what the facts of an input depend on."""
    return stamps, frozenset(input_map.items()), cut, options.allow_external_data


def _rows_of_outputs(
    model: ModelSpecification, outputs: Collection[str], *, with_row_axis: bool
) -> RowInputs:
    """Return the shape and dtype of a row of each output, as the model announces it."""
    # Without a batch dimension, the axis of rows is the first of those announced.
    first = 1 if with_row_axis and model.max_batch_size == 0 else 0
    return {
        name: (model.outputs[name].shape[first:], model.outputs[name].dtype)
        for name in outputs or model.outputs
    }


def _as_in_file(facts: InputFacts) -> RowInputs:
    """Return the shape and dtype of a row of each dataset, strings as objects."""
    return {
        name: (
            dataset.shape[1:],
            np.dtype(object)
            if is_readable_as(dataset.dtype, np.dtype(object), cast=False)
            else dataset.dtype,
        )
        for name, dataset in facts.datasets.items()
    }
