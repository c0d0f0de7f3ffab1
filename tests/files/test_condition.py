"""Conditions such as ``snr > 8``: what they mean, and what is refused."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.aeriel.files._condition import Condition
from hermes.errors import ParameterError

OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}
DTYPES = ["f2", "f4", "f8", "i1", "u1", "i8", "u8", "?"]


def met(text: str, **outputs: Any) -> list[bool]:
    condition = Condition.parse(text)
    assert condition is not None
    found = condition.mask({name: np.asarray(array) for name, array in outputs.items()})
    assert found.dtype == bool
    return list(map(bool, found))


@given(
    values=st.lists(st.integers(0, 100), max_size=9),
    dtype=st.sampled_from(DTYPES),
    name=st.sampled_from(list(OPERATORS)),
    number=st.one_of(
        st.integers(-1000, 1000), st.floats(-100, 100), st.sampled_from([10**9, 1e300])
    ),
)
def test_it_compares_as_numpy_does(values: list[int], dtype: str, name: str, number: float) -> None:
    array = np.array(values).astype(dtype)
    with np.errstate(over="ignore"):
        wanted = OPERATORS[name](array, number).tolist()
    assert met(f"y {name} {number!r}", y=array) == wanted
    assert met(f"y{name}{number!r}", y=array[:, np.newaxis]) == wanted


def test_an_index_takes_one_number_of_a_row() -> None:
    rows = np.arange(12.0).reshape(2, 2, 3)
    assert met("y[1,2] > 5", y=rows) == [False, True]
    assert met("y[ 0 , 1 ] == 1", y=rows) == [True, False]
    assert met("/fc/Gemm.0[0] >= 1", **{"/fc/Gemm.0": [[1], [0]]}) == [True, False]


def test_any_takes_a_row_with_one_such_number() -> None:
    assert met("y[any] > 5", y=np.arange(12.0).reshape(2, 2, 3)) == [False, True]
    assert met("y[any] == 3", y=np.arange(12).reshape(2, 2, 3)) == [True, False]
    assert met("y[any] > 5", y=np.zeros((2, 0))) == [False, False]
    assert met("y[any] > 5", y=np.zeros((0, 3))) == []


def test_nan_meets_no_condition_but_one() -> None:
    for name in OPERATORS:
        assert met(f"y {name} 1", y=[np.nan]) == [name == "!="]


@pytest.mark.parametrize(
    "text",
    [
        "snr",
        "> 8",
        "snr > ",
        "snr => 8",
        "snr = 8",
        "snr > 8 and y < 3",
        "snr > nan",
        "snr > 1e999",
        "snr > 0x10",
        "snr > eight",
        "snr[all] > 8",
        "snr[-1] > 8",
        "snr[] > 8",
        "snr[1 > 8",
        "a b > 8",
        "8 < snr < 9",
        " ",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"^keep: .* is not an output, one of .*'snr > 8'"):
        Condition.parse(text)


def test_nothing_is_no_condition() -> None:
    assert Condition.parse("") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("z > 8", "there is no output 'z', but y, boxes, word"),
        ("boxes > 8", r"float32 of shape \(-1, 4\); say which number"),
        ("boxes[0] > 8", r"float32 of shape \(-1, 4\), which has no such index"),
        ("boxes[0,4] > 8", "no such index"),
        ("word == 8", "object of shape .*, not numbers"),
    ],
)
def test_what_the_model_has_not_is_refused(text: str, words: str) -> None:
    outputs: Any = {
        "y": ((1,), np.dtype("f4")),
        "boxes": ((-1, 4), np.dtype("f4")),
        "word": ((1,), np.dtype(object)),
    }
    condition = Condition.parse(text)
    assert condition is not None
    with pytest.raises(ParameterError, match=words):
        condition.check(outputs)


def test_what_the_answers_have_not_is_refused() -> None:
    with pytest.raises(ParameterError, match="no such index"):
        met("y[3] > 8", y=np.zeros((2, 3)))
