"""Rows through a model, whose answers are for the caller alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files._plan import examine, plan
from hermes.aeriel.files._reading import open_data
from hermes.aeriel.files._rows import Arrays
from hermes.aeriel.files._sequences import SequencePlan


def pass_rows(
    client: InferenceClient, input_files: Sequence[Path], options: InferenceOptions
) -> Iterator[tuple[range, Arrays]]:
    """Yield the rows of each request that an input makes, and the model's answer.

    As `infer_file` reads and sends them; nothing is written, and no row is left out. An array is
    only good until the next one is asked for.

    Parameters
    ----------
    client
        A client for the model.
    input_files
        The HDF5 file; or several, each of which has one channel of every series.
    options
        How to read them.

    Raises
    ------
    DataError, ParameterError, InferenceError
        As `infer_file`.
    """
    options = replace(options, outputs=tuple(client.outputs))
    facts = examine(input_files, options, client.specification)
    todo = plan(facts, options, client.specification)
    reading = open_data(
        facts,
        {name: todo.requests.inputs[name][1] for name in facts.datasets},
        cut=todo.cut,
        cast=options.cast,
        n_readers=todo.order.n_places(client) if isinstance(todo.order, SequencePlan) else 1,
    )
    with reading as data:
        yield from todo.order.stream(client, data, 0)
