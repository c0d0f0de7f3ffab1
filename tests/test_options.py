"""The options of an inference: which of them a result depends on, and how several values join."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from hermes.aeriel._options import (
    InferenceOptions,
    ValidationOptions,
    as_input_map,
    as_shifts,
    join_maps,
    join_shifts,
    read_map,
)
from hermes.aeriel.files import fingerprint
from hermes.errors import ParameterError

OPTIONS = InferenceOptions(model_name="m")
CHANGES_RESULT: dict[str, Any] = {
    "model_name": "n",
    "model_version": "2",
    "input_map": {"x": "/y"},
    "outputs": ("y",),
    "batch_size": 2,
    "rows_per_sequence": 2,
    "cast": True,
    "finite": "inputs",
    "keep": "y > 0",
    "varying": ("y",),
    "window": "4",
    "stride": "2",
    "shifts": ("0", "1"),
    "n_slides": 2,
    "slide_step": "1s",
    "sample_rate": 2.0,
    "overlap": True,
}
CHANGES_NO_RESULT: dict[str, Any] = {
    "allow_external_data": True,
    "skip_empty": True,
    "max_in_flight": 2,
    "transport": "grpc",
    "rate_hz": 2.0,
    "timeout_s": 2.0,
    "retry_for_s": 2.0,
}


def test_every_option_has_its_case() -> None:
    names = [field.name for field in fields(InferenceOptions)]
    assert sorted(names) == sorted([*CHANGES_RESULT, *CHANGES_NO_RESULT])


def stamp(options: InferenceOptions | ValidationOptions) -> str:
    return fingerprint(**options.facts())


@pytest.mark.parametrize("name", CHANGES_RESULT)
def test_an_option_that_changes_the_result_changes_its_fingerprint(name: str) -> None:
    assert stamp(replace(OPTIONS, **{name: CHANGES_RESULT[name]})) != stamp(OPTIONS)


@pytest.mark.parametrize("name", CHANGES_NO_RESULT)
def test_another_option_does_not(name: str) -> None:
    assert stamp(replace(OPTIONS, **{name: CHANGES_NO_RESULT[name]})) == stamp(OPTIONS)


def test_another_spelling_has_the_same_fingerprint() -> None:
    assert stamp(replace(OPTIONS, model_version="-1")) == stamp(OPTIONS)
    one, two = (replace(OPTIONS, varying=names) for names in (("a", "b"), ("b", "a", "b")))
    assert stamp(one) == stamp(two)


def test_a_fingerprint_is_of_names_and_values_whatever_their_order() -> None:
    assert fingerprint(a=1, b=2) == fingerprint(b=2, a=1) != fingerprint(a=2, b=1)
    assert fingerprint(a=1, b=2) != fingerprint(a=1)


def test_a_client_gets_the_options_of_its_requests() -> None:
    assert OPTIONS.client() == {
        "model_name": "m",
        "model_version": "",
        "outputs": None,
        "max_in_flight": None,
        "transport": "auto",
        "rate_hz": None,
        "timeout_s": 60.0,
        "retry_for_s": 120.0,
    }
    changed = {name: CHANGES_NO_RESULT[name] for name in ("max_in_flight", "transport", "rate_hz")}
    changed |= {"timeout_s": 3.0, "retry_for_s": 4.0, "outputs": ("y",), "model_version": "2"}
    assert replace(OPTIONS, **changed).client() == {"model_name": "m", **changed}


@pytest.mark.parametrize(
    ("name", "value", "changes"),
    [
        ("metrics", ("accuracy",), True),
        ("require", ("accuracy > 0.5",), True),
        ("output_name", "y", True),
        ("scores", "logits", True),
        ("rtol", 0.1, True),
        ("atol", 0.1, True),
        ("title", "A title", False),
    ],
)
def test_a_report_depends_on_how_it_was_measured(name: str, value: Any, changes: bool) -> None:
    assert (stamp(ValidationOptions(**{name: value})) != stamp(ValidationOptions())) is changes


def test_several_shifts_are_those_of_more_channels_or_more_slides() -> None:
    assert join_shifts("shifts", [("0",), ("1s", "2s")]) == ("0", "1s", "2s")
    slides = (("0", "1s"), ("0", "2s"))
    assert join_shifts("shifts", [slides[:1], slides[1:]]) == slides
    assert join_shifts("shifts", []) == ()
    with pytest.raises(
        ParameterError, match=r"^shifts: is given for channels and for slides; give"
    ):
        join_shifts("shifts", [("0",), slides])


def test_several_maps_agree() -> None:
    assert join_maps("input_map", [{"x": "/a"}, {"y": ("/b",), "x": "/a"}]) == {
        "x": "/a",
        "y": ("/b",),
    }
    with pytest.raises(ParameterError, match=r"^input_map: 'x' is given as /a and as /b$"):
        join_maps("input_map", [{"x": "/a"}, {"x": "/b"}])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=/a", {"x": "/a"}),
        ("x=/a=b", {"x": "/a=b"}),
        (' {"x": "/a=b"}', {"x": "/a=b"}),
        (' ["a=b"]', ["a=b"]),
        ("3", 3),
    ],
)
def test_a_map_is_a_pair_or_json(text: str, value: Any) -> None:
    assert read_map(text) == value


@pytest.mark.parametrize("text", ["x", "x=", "=/a", "", '{"x": "/a"'])
def test_other_text_is_no_map(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        read_map(text)


def test_a_map_has_texts_and_tuples_of_them() -> None:
    assert as_input_map({"x": "/a", "y": ["/b", "/c"], "z": ("/d",)}) == {
        "x": "/a",
        "y": ("/b", "/c"),
        "z": ("/d",),
    }


@pytest.mark.parametrize("value", [["x"], {"x": 1}, {"x": []}, {"x": ["/a", 1]}, {1: "/a"}, "x"])
def test_another_value_is_no_map(value: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the value alone)
        as_input_map(value)
    assert caught.value.args == (value,)


@pytest.mark.parametrize(
    ("value", "shifts"),
    [
        ("1s", ("1s",)),
        ([0, 1.5, -2], ("0", "1.5s", "-2s")),
        ((0.0, 1e-7, 1e22), ("0", "0.0000001s", "10000000000000000000000s")),
        ([], ()),
        ([[0, "64"], (1, 2)], (("0", "64"), ("1s", "2s"))),
    ],
)
def test_numbers_are_seconds(value: Any, shifts: Any) -> None:
    assert as_shifts(value) == shifts


@pytest.mark.parametrize(
    "value", [1, {"a": 1}, [True], [None], [[]], [float("nan")], [float("inf")], [["0"], "1"]]
)
def test_another_value_is_no_shift(value: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the value alone)
        as_shifts(value)
    assert caught.value.args != (None,) or value == [None]
