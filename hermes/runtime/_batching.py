"""Answering several requests with as few runs of a model as possible.

Triton's backends of hermes run in the server's own Python, without hermes: the installation
copies this module beside each of them. It needs numpy, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Run = Callable[[Tensors, Collection[str]], Tensors]


@dataclass(frozen=True)
class Request:
    """The inputs of one request, and the names of the outputs that it wants."""

    inputs: Tensors
    outputs: Collection[str]


def answer_requests(
    requests: Sequence[Any],
    inputs: Callable[[Any], Tensors],
    run: Run,
    *,
    outputs: Sequence[str],
    states: Collection[str],
    batched: bool,
) -> Iterator[tuple[Any, Tensors | Exception, list[str]]]:
    """Yield each of Triton's requests with its answer, and the names of the outputs that it wants.

    Parameters
    ----------
    requests
        The requests, as the Python backend has them.
    inputs
        Returns the inputs of a request.
    run, batched
        As for `answer`.
    outputs, states
        The names of the model's outputs, and of those that are kept as the state of a sequence.
    """
    # Names come as a set, whose order differs from process to process.
    asked = [request.requested_output_names() for request in requests]
    wanted = [[name for name in outputs if name in names] for names in asked]
    prepared = [
        prepare(partial(inputs, request), {*names, *states})
        for request, names in zip(requests, wanted, strict=True)
    ]
    yield from zip(requests, answer(prepared, run, batched=batched), wanted, strict=True)


def prepare(inputs: Callable[[], Tensors], outputs: Collection[str]) -> Request | Exception:
    """Return a request, or the error that its inputs met: it belongs to this request alone."""
    try:
        return Request(inputs(), outputs)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error


def answer(
    requests: Sequence[Request | Exception], run: Run, *, batched: bool
) -> list[Tensors | Exception]:
    """Return, for each request and in order, its outputs or the error that it met.

    Parameters
    ----------
    requests
        What the server gathered; an error is its own answer.
    run
        Runs the model: takes inputs and the names of the outputs to compute.
    batched
        The first dimension of every tensor is the batch: requests that agree in the rest are
        stacked into one run. If that run fails, each of them gets a run of its own, so that
        only those are failed that deserve it.
    """
    answers: list[Tensors | Exception] = [RuntimeError("the request was not answered")] * len(
        requests
    )
    good: dict[int, Request] = {}
    for index, request in enumerate(requests):
        if isinstance(request, Request):
            good[index] = request
        else:
            answers[index] = request
    alone = not batched or len(good) == 1
    for indices in [[index] for index in good] if alone else _alike(good):
        for index, outputs in zip(
            indices, _answer_alike([good[i] for i in indices], run), strict=True
        ):
            answers[index] = outputs
    return answers


def _alike(requests: Mapping[int, Request]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for index, request in requests.items():
        tensors = sorted(request.inputs.items())
        kind = tuple((name, array.dtype.str, array.shape[1:]) for name, array in tensors)
        groups.setdefault(kind, []).append(index)
    return list(groups.values())


def _answer_alike(requests: Sequence[Request], run: Run) -> list[Tensors | Exception]:
    if len(requests) == 1:
        return [_answer_one(requests[0], run)]
    try:
        return list(_answer_stacked(requests, run))
    except Exception:  # noqa: BLE001 - whose fault it was shows when each runs alone
        return [_answer_one(request, run) for request in requests]


def _answer_one(request: Request, run: Run) -> Tensors | Exception:
    try:
        outputs = run(request.inputs, request.outputs)
        return {name: outputs[name] for name in request.outputs}
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this request
        return error


def _answer_stacked(requests: Sequence[Request], run: Run) -> list[Tensors]:
    rows = [_rows(request) for request in requests]
    inputs = {
        name: np.concatenate([request.inputs[name] for request in requests])
        for name in requests[0].inputs
    }
    outputs = run(inputs, sorted({name for request in requests for name in request.outputs}))
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != sum(rows):
            msg = f"output {name!r} has shape {array.shape} for a batch of {sum(rows)}"
            raise ValueError(msg)
    ends = np.cumsum(rows)
    return [
        {name: outputs[name][end - n : end] for name in request.outputs}
        for request, n, end in zip(requests, rows, ends, strict=True)
    ]


def _rows(request: Request) -> int:
    rows = {len(array) for array in request.inputs.values()}
    if len(rows) != 1:
        msg = f"the inputs differ in their first dimension, the batch: {sorted(rows)}"
        raise ValueError(msg)
    return rows.pop()
