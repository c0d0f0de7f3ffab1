"""Parameters name themselves and say what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import luigi
import pytest

from hermes.errors import ParameterError
from workflows.parameters import (
    AbsolutePath,
    GPUs,
    ImagePath,
    Number,
    TextList,
    TextMap,
    WholeNumber,
)


class Everything(luigi.Task):
    whole = WholeNumber(default=1)
    number = Number(default=1.5)
    texts = TextList(default=())
    gpus = GPUs(default=None)
    mapping = TextMap(default={})
    path = AbsolutePath(default="")
    image = ImagePath(default="")


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        ("whole", "3", 3),
        ("number", "3", 3.0),
        ("number", "1e-3", 0.001),
        ("texts", "a b", ("a b",)),
        ("texts", '["a", "b"]', ("a", "b")),
        ("texts", "[]", ()),
        ("gpus", "[0, 3]", (0, 3)),
        ("gpus", "[]", ()),
        ("gpus", "null", None),
        ("gpus", '["GPU-1"]', ("GPU-1",)),
        ("mapping", '{"x": "/y"}', {"x": "/y"}),
        ("path", "/a/b", "/a/b"),
        ("path", "s3://bucket/models", "s3://bucket/models"),
        ("path", "", ""),
        ("image", "docker://nvcr", "docker://nvcr"),
        ("image", "nowhere.sif", "nowhere.sif"),
    ],
)
def test_a_text_becomes_a_value_and_back(parameter: str, text: str, value: Any) -> None:
    task = Everything.from_str_params({parameter: text})
    assert getattr(task, parameter) == value
    assert Everything.from_str_params(task.to_str_params()) == task
    hash(task)


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("whole", "-1"),
        ("whole", "1.5"),
        ("whole", "true"),
        ("whole", "many"),
        ("number", "-0.5"),
        ("number", "NaN"),
        ("number", "Infinity"),
        ("number", '"1"'),
        ("texts", "[1]"),
        ("texts", '["a"'),
        ("gpus", "0"),
        ("gpus", "[0.5]"),
        ("gpus", "all"),
        ("mapping", "[]"),
        ("mapping", '{"x": 1}'),
        ("mapping", "x=y"),
    ],
)
def test_another_text_is_refused_by_name(parameter: str, text: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{parameter}: .* is not "):
        Everything.from_str_params({parameter: text})


def test_a_value_of_another_type_is_refused_by_name() -> None:
    wrong: list[dict[str, Any]] = [
        {"whole": "1"},
        {"number": None},
        {"texts": 1},
        {"mapping": 1},
        {"path": 1},
        {"image": None},
    ]
    for values in wrong:
        (name,) = values
        with pytest.raises(ParameterError, match=rf"^{name}: "):
            Everything(**values)


def test_paths_become_absolute_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "triton.sif").touch()
    task = Everything(path="models", image=Path("triton.sif"))
    assert task.path == f"{tmp_path}/models"
    assert task.image == f"{tmp_path}/triton.sif"
