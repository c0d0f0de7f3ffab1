"""Implicit states, by the requests that a backend gets: no server is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hermes.runtime._sequences import END, START, SequenceStates

CONFIG = {
    "max_batch_size": 2,
    "sequence_batching": {"state": [{"input_name": "before", "output_name": "after"}]},
}


def ask(states: SequenceStates, sequence: int, x: float, flags: int = 0) -> float:
    """Return before + x, as a backend does it for a request."""
    received: Any = {"before": np.zeros(1), "x": np.array([x])}
    inputs = states.inputs(sequence, flags, received)
    total = inputs["before"] + inputs["x"]
    return float(states.keep(sequence, flags, {"after": total}, ["after"])["after"][0])


def test_empty_slots_take_no_place() -> None:
    states = SequenceStates(CONFIG)
    for sequence in (1, 2):
        ask(states, sequence, 1, START)
    for _ in range(10):
        ask(states, 0, 5)

    assert [ask(states, sequence, 1) for sequence in (1, 2)] == [2, 2]
    assert ask(states, 0, 5) == 5


def test_sequence_whose_first_request_failed_is_refused() -> None:
    states = SequenceStates(CONFIG)
    states.inputs(7, START, {})
    states.end(7, START)

    with pytest.raises(ValueError, match="sequence 7 has no state"):
        ask(states, 7, 1)
    assert ask(states, 7, 1, START) == 1


def test_last_request_ends_a_sequence_although_it_fails() -> None:
    states = SequenceStates(CONFIG)
    ask(states, 7, 1, START)
    states.inputs(7, END, {})
    states.end(7, END)

    with pytest.raises(ValueError, match="sequence 7 has no state"):
        ask(states, 7, 1)


def test_memory_is_bounded_where_no_end_is_announced() -> None:
    states = SequenceStates(CONFIG)
    for sequence in range(1, 100):
        ask(states, sequence, 1, START)

    assert [ask(states, sequence, 1) for sequence in (98, 99)] == [2, 2]
    with pytest.raises(ValueError, match="sequence 1 has no state"):
        ask(states, 1, 1)
