"""A damaged value of a parameter is a value, or an error of one sentence."""

from __future__ import annotations

import random
from typing import Any

import luigi
import pytest

from hermes.aeriel.client import Windows
from hermes.aeriel.metrics._metrics import parse_metrics
from hermes.aeriel.metrics._requirements import parse_requirement
from tests.fuzz import RUNS, mutated_bytes, outcome
from workflows.inference import InferenceParameters
from workflows.merge import ValidationParameters
from workflows.server import ServerParameters

TEXTS = [
    *("", "3", "-1", "1.5", "1e999", "1" + "0" * 400, "NaN", "true", "null", "None", "auto"),
    *("a b", '["a", "b"]', "[0, 3]", '["GPU-1", 2]', '{"x": "/path"}', "[" * 5000, "{" * 5000),
    *("models/", "~/models", "~nobody/models", "s3://bucket/models", "docker://nvcr.io/x", "a\0b"),
    *("1024", "1.5s", "-0.5s", "1e308s", "accuracy >= 0.95", "top_3_accuracy", "\ud800", "é\n"),
]
# What a TOML file, or Python, may give instead.
VALUES: list[Any] = [
    *(None, True, 0, -1, 10**400, 1.5, float("nan"), [], ["a", 1], [["a"]], {}, {"x": 1}, {1: "x"}),
    *((), ("a",), b"bytes", object()),
]
FAMILIES = [InferenceParameters, ServerParameters, ValidationParameters]
PARAMETERS = {
    name: parameter
    for family in FAMILIES
    for name in dir(family)
    if isinstance(parameter := getattr(family, name), luigi.Parameter)
}


def damaged(rng: random.Random) -> str:
    text = rng.choice(TEXTS)
    data = text.encode(errors="surrogatepass")
    return mutated_bytes(rng, data).decode(errors="surrogateescape") if rng.random() < 0.7 else text


def assert_names(found: object, name: str, seed: int) -> None:
    if isinstance(found, str):
        assert found.startswith(f"{name}: "), f"seed {seed}: {found}"


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_text_is_a_value_that_comes_back_or_is_refused_by_name(name: str) -> None:
    parameter = PARAMETERS[name]

    def read(given: Any) -> tuple[Any]:
        value = parameter.normalize(given if not isinstance(given, str) else parameter.parse(given))
        hash(value)
        assert parameter.parse(parameter.serialize(value)) == value
        return (value,)  # a text is a value too

    for value in VALUES:
        assert_names(outcome(lambda value=value: read(value), 0), name, 0)  # type: ignore[misc]
    for seed in range(RUNS):
        text = damaged(random.Random(seed))
        assert_names(outcome(lambda text=text: read(text), seed), name, seed)  # type: ignore[misc]


def test_what_texts_mean_is_known_or_refused() -> None:
    for seed in range(RUNS):
        rng = random.Random(seed)
        text, other = damaged(rng)[:100], damaged(rng)[:100]
        outcome(lambda text=text: (parse_requirement(text),), seed)  # type: ignore[misc]
        outcome(lambda text=text: (parse_metrics([text]),), seed)  # type: ignore[misc]
        rate = rng.choice((0.0, 1.0, 4096.0, 1e-300, 1e300))
        outcome(
            lambda a=text, b=other, r=rate: (  # type: ignore[misc]
                Windows.cut(99, window=a, stride=b or None, shifts=(b, a), sample_rate=r or None),
            ),
            seed,
        )
