from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from hermes.runtime._batching import Request, Tensors, answer, prepare


class Doubler:
    """A model that doubles x, refuses negative numbers, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, inputs: Tensors, outputs: Collection[str]) -> Tensors:
        self.batches.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise ValueError("negative")
        results = {"y": inputs["x"] * 2, "z": inputs["x"] * 3}
        return {name: results[name] for name in outputs}


def request(*shape: int, value: float = 1.0, outputs: Collection[str] = ("y",)) -> Request:
    return Request({"x": np.full(shape, value, np.float32)}, outputs)


def test_requests_that_agree_share_one_run() -> None:
    model = Doubler()

    answers = answer([request(2, 3), request(1, 3, value=5)], model, batched=True)

    assert model.batches == [3]
    assert [np.shape(tensors["y"]) for tensors in values(answers)] == [(2, 3), (1, 3)]
    assert values(answers)[1]["y"].tolist() == [[10, 10, 10]]


def test_requests_that_differ_in_shape_run_apart_and_keep_their_order() -> None:
    model = Doubler()

    answers = answer([request(1, 3), request(1, 4), request(1, 3)], model, batched=True)

    assert sorted(model.batches) == [1, 2]
    assert [tensors["y"].shape[1] for tensors in values(answers)] == [3, 4, 3]


def test_model_without_a_batch_dimension_runs_once_per_request() -> None:
    model = Doubler()

    answer([request(2), request(2)], model, batched=False)

    assert model.batches == [2, 2]


def test_failure_belongs_to_the_request_that_caused_it() -> None:
    first, second, third = answer(
        [request(1, 2), request(1, 2, value=-1), request(1, 2)], Doubler(), batched=True
    )

    assert isinstance(second, ValueError)
    assert values([first, third])[0]["y"].tolist() == [[2, 2]]


def test_only_the_outputs_that_were_asked_for_come_back() -> None:
    answers = answer([request(1, 2, outputs=["z"]), request(1, 2)], Doubler(), batched=True)

    assert [sorted(tensors) for tensors in values(answers)] == [["z"], ["y"]]


def test_output_that_cannot_be_split_makes_every_request_run_alone() -> None:
    batches = []

    def total(inputs: Tensors, outputs: Collection[str]) -> Tensors:
        batches.append(len(inputs["x"]))
        return {"y": inputs["x"].sum(keepdims=True)}

    answers = answer([request(1, 2), request(2, 2)], total, batched=True)

    assert batches == [3, 1, 2]
    assert [tensors["y"].item() for tensors in values(answers)] == [2, 4]


@pytest.mark.parametrize("batched", [True, False])
def test_no_requests_are_no_answers(batched: bool) -> None:
    assert answer([], Doubler(), batched=batched) == []


def values(answers: list[Tensors | Exception]) -> list[Tensors]:
    assert not [error for error in answers if isinstance(error, Exception)]
    return [tensors for tensors in answers if not isinstance(tensors, Exception)]


def test_request_that_could_not_be_prepared_is_its_own_answer() -> None:
    model = Doubler()

    def lost() -> Tensors:
        raise ValueError("lost")

    requests = [prepare(lost, ["y"]), request(2, 3), request(1, 3)]
    answers = answer(requests, model, batched=True)

    assert str(answers[0]) == "lost"
    assert model.batches == [3]
    assert [np.shape(tensors["y"]) for tensors in values(answers[1:])] == [(2, 3), (1, 3)]
