"""Requirements say what they want, and by how much it was missed."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.aeriel.metrics._requirements import (
    OPERATORS,
    Requirement,
    check_requirements,
    evaluate_requirements,
    parse_requirement,
)
from hermes.errors import ParameterError


@given(
    operator=st.sampled_from(list(OPERATORS)),
    threshold=st.floats(allow_nan=False, allow_infinity=False),
    space=st.sampled_from(["", " ", "  "]),
)
def test_a_requirement_is_read_with_any_spacing(
    operator: str, threshold: float, space: str
) -> None:
    text = f"{space}top_3_accuracy{space}{operator}{space}{threshold!r}{space}"
    requirement = Requirement(metric="top_3_accuracy", operator=operator, threshold=threshold)
    assert parse_requirement(text) == requirement


@pytest.mark.parametrize(
    "text",
    [
        *("", "accuracy", "accuracy >=", ">= 1", "accuracy => 1", "accuracy = 1", "accuracy != 1"),
        *("accuracy >= high", "accuracy >= nan", "accuracy >= inf", "accuracy >= 1 2", "a b >= 1"),
    ],
)
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_requirement(text)
    assert str(caught.value) == (
        f"require: given {text!r}, wanted a metric, one of >=, >, <=, <, == and a number, "
        "for example 'accuracy >= 0.95' or 'accuracy - baseline.accuracy >= -0.01'"
    )


@pytest.mark.parametrize(
    ("text", "value", "passed", "sentence"),
    [
        ("accuracy >= 0.95", 0.931, False, "is 0.931, misses by 0.019"),
        ("accuracy >= 0.95", 0.95, True, "is 0.95, passes by 0"),
        ("accuracy >= 0.95", 0.95 - 1e-9, False, "is 0.949999999, misses by 1e-09"),
        ("accuracy > 0.95", 0.95, False, "is 0.95, misses by 0"),
        ("mse <= 0.1", 0.0625, True, "is 0.0625, passes by 0.0375"),
        ("mse < 0.1", 0.25, False, "is 0.25, misses by 0.15"),
        ("reference == 1", 1.0, True, "is 1.0, passes by 0"),
        ("reference == 1", 0.75, False, "is 0.75, misses by 0.25"),
        ("mse < 10", math.nan, False, "is nan, which never passes"),
        ("mse < 10", math.inf, False, "is inf, misses by inf"),
    ],
)
def test_a_result_says_by_how_much(text: str, value: float, passed: bool, sentence: str) -> None:
    requirement = parse_requirement(text)
    (result,) = evaluate_requirements([requirement], {requirement.metric: value})
    assert result.passed is passed
    assert str(result) == f"{text}: {sentence}"
    assert json.loads(json.dumps(result.to_json()))["text"] == str(result)


@given(operator=st.sampled_from(list(OPERATORS)), threshold=st.floats(-1e9, 1e9))
def test_nan_never_passes(operator: str, threshold: float) -> None:
    requirement = Requirement(metric="mse", operator=operator, threshold=threshold)
    assert not evaluate_requirements([requirement], {"mse": math.nan})[0].passed


@given(
    value=st.floats(-9, 9), threshold=st.floats(-9, 9), operator=st.sampled_from([">=", "<=", "=="])
)
def test_the_margin_has_the_sign_of_the_outcome(
    value: float, threshold: float, operator: str
) -> None:
    requirement = Requirement(metric="mse", operator=operator, threshold=threshold)
    (result,) = evaluate_requirements([requirement], {"mse": value})
    assert result.passed is (result.margin >= 0)


def test_a_requirement_on_a_metric_that_is_not_computed_is_refused() -> None:
    requirements = [parse_requirement("accuracy >= 0.95")]
    check_requirements(requirements, ("mse", "accuracy"))
    with pytest.raises(ParameterError) as caught:
        check_requirements(requirements, ("mse", "mae"))
    assert str(caught.value) == (
        "require: 'accuracy >= 0.95' is on a metric that is not computed; computed are: mse, mae"
    )
    with pytest.raises(ParameterError, match="computed are: none"):
        evaluate_requirements(requirements, {})


@pytest.mark.parametrize("operator", [">=", "<=", "=="])
def test_a_margin_of_nothing_has_no_sign(operator: str) -> None:
    (result,) = evaluate_requirements([parse_requirement(f"mse {operator} 1")], {"mse": 1.0})
    assert math.copysign(1, result.margin) == 1


def test_a_result_in_json_has_its_facts() -> None:
    (result,) = evaluate_requirements([parse_requirement("mse < 0.5")], {"mse": 0.25})
    assert result.to_json() == {
        "metric": "mse",
        "operator": "<",
        "threshold": 0.5,
        "value": 0.25,
        "passed": True,
        "margin": 0.25,
        "text": "mse < 0.5: is 0.25, passes by 0.25",
    }


@pytest.mark.parametrize("space", ["", " ", "  "])
def test_a_requirement_may_be_on_the_difference_from_a_baseline(space: str) -> None:
    text = f"accuracy{space}-{space}baseline.accuracy{space}>={space}-0.01"
    requirement = parse_requirement(text)
    assert str(requirement) == "accuracy - baseline.accuracy >= -0.01"
    assert requirement.scalar == "accuracy"
    (outcome,) = evaluate_requirements([requirement], {"accuracy - baseline.accuracy": -0.02})
    assert not outcome.passed
    assert outcome.margin == pytest.approx(-0.01)


def test_a_difference_is_of_one_metric() -> None:
    with pytest.raises(ParameterError, match=r"^require: .* is on two metrics, mse and mae"):
        parse_requirement("mse - baseline.mae <= 0")
