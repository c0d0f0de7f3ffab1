"""Parameters name themselves and say what they take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.cmdline_parser import CmdlineParser

from hermes.errors import ParameterError
from workflows.parameters import (
    AbsolutePath,
    Choice,
    DatasetMap,
    FilePatterns,
    Flag,
    GPUs,
    ImagePath,
    Number,
    OptionalWholeNumber,
    ShiftList,
    Text,
    TextList,
    WholeNumber,
)


class Everything(luigi.Task):
    text = Text(default="")
    choice = Choice(choices=("red", "blue"), default="red")
    flag = Flag()
    optional = OptionalWholeNumber(default=None)
    whole = WholeNumber(default=1)
    number = Number(default=1.5)
    texts = TextList(default=())
    gpus = GPUs(default=None)
    mapping = DatasetMap(default={})
    patterns = FilePatterns(default=())
    shifts = ShiftList(default=())
    path = AbsolutePath(default="")
    image = ImagePath(default="")


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        ("text", "a b", "a b"),
        ("choice", "blue", "blue"),
        ("flag", "TRUE", True),
        ("optional", "null", None),
        ("optional", "2", 2),
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
        ("mapping", "x=/y", {"x": "/y"}),
        ("mapping", '{"x": ["/y", "/z"]}', {"x": ("/y", "/z")}),
        ("mapping", "x=/y=z", {"x": "/y=z"}),
        ("patterns", "a/*.h5", ("a/*.h5",)),
        ("patterns", '["a.h5", "b.h5"]', ("a.h5", "b.h5")),
        ("patterns", '{"H1": "H-*", "L1": ["L-1", "L-2"]}', {"H1": "H-*", "L1": ("L-1", "L-2")}),
        ("shifts", "1s", ("1s",)),
        ("shifts", '[0, "-1s"]', ("0", "-1s")),
        ("shifts", '[[0, 0], ["0", "1s"]]', (("0", "0"), ("0", "1s"))),
        ("shifts", "[[0, 1], [0, -0.00001]]", (("0", "1s"), ("0", "-0.00001s"))),
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
        ("choice", "green"),
        ("flag", "maybe"),
        ("optional", "-1"),
        ("whole", "-1"),
        ("whole", "[" * 100_000),
        ("number", "1" + "0" * 400),
        ("path", "a\0b"),
        ("path", "~nobody-of-this-name/models"),
        ("image", "~nobody-of-this-name/triton.sif"),
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
        ("patterns", '{"H1": []}'),
        ("patterns", '[["a"]]'),
        ("shifts", "[0, NaN]"),
        ("shifts", "[false]"),
        ("shifts", '[["0"], "1"]'),
        ("shifts", "[[]]"),
        ("mapping", '{"x": 1}'),
        ("mapping", '{"x": []}'),
        ("mapping", '{"x": ["/y", 1]}'),
        ("mapping", "x="),
    ],
)
def test_another_text_is_refused_by_name(parameter: str, text: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{parameter}: .* is (not|neither) ") as caught:
        Everything.from_str_params({parameter: text})
    assert len(str(caught.value)) < 400


def run(*arguments: str) -> Everything:
    """Return the task that Luigi's command line makes."""
    with CmdlineParser.global_instance(["Everything", *arguments]) as parser:
        task: Everything = parser.get_task_obj()
    return task


def test_options_that_are_repeated_add_up() -> None:
    assert list(run("--texts", "a", "--texts", '["b", "c"]', "--texts=").texts) == ["a", "b", "c"]
    assert run("--mapping", '{"x": "/a"}', "--mapping", '{"y": "/b"}').mapping == {
        "x": "/a",
        "y": "/b",
    }
    assert run("--flag", "--flag").flag
    assert run("--whole", "3", "--text=").whole == 3
    assert list(run("--Everything-texts", "a", "--Everything-texts", "b").texts) == ["a", "b"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--whole=1", "--whole=2"),
        ("--text=a", "--text=a"),
        ("--choice=red", "--choice=blue"),
        ("--gpus=[0]", "--gpus=[1]"),
        ("--path=a", "--path=b"),
        ('--mapping={"x": "/a"}', '--mapping={"x": "/b"}'),
    ],
)
def test_options_that_take_one_value_are_not_repeated(arguments: tuple[str, ...]) -> None:
    name = arguments[0].removeprefix("--").partition("=")[0]
    with pytest.raises(ParameterError, match=rf"^{name}: .*is given "):
        run(*arguments)


def test_a_pattern_without_quotes_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--patterns", "data/a.h5", "data/b.h5", "--texts", "t")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "hermes: unrecognized arguments: data/b.h5; "
        "a pattern of files stands in quotes, as --inputs 'data/*.h5'\n"
    )


def test_a_value_of_another_type_is_refused_by_name() -> None:
    wrong: list[dict[str, Any]] = [
        {"whole": "1"},
        {"number": None},
        {"texts": 1},
        {"mapping": 1},
        {"path": 1},
        {"image": None},
        {"text": ["a"]},
        {"text": True},
        {"choice": 1},
        {"flag": None},
        {"flag": "maybe"},
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


TOML = """
[retcode]
task_failed = 3

[Everything]
text = 1024
choice = "blue"
flag = true
optional = 2
whole = 3
number = 1.5
texts = ["a", "b"]
gpus = [0, 3]
path = "models"

[Everything.mapping]
x = "/path"
"""
PRINT = """
import sys
import workflows.validate
import tests.workflows.test_parameters as given
from luigi.retcodes import retcode

task = given.Everything()
print([getattr(task, name) for name in sys.argv[1:]], retcode().task_failed, retcode().not_run)
"""


def test_a_toml_file_gives_values_in_its_own_types(tmp_path: Path) -> None:
    pytest.importorskip("toml", reason="Luigi reads no TOML without it: pip install luigi[toml]")
    (tmp_path / "luigi.toml").write_text(TOML)
    names = ["text", "choice", "flag", "optional", "whole", "number", "texts", "gpus", "path"]
    source = Path(__file__).resolve().parents[2]
    environment = {"LUIGI_CONFIG_PARSER": "toml", "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", PRINT, *names, "mapping"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    values = ["1024", "blue", True, 2, 3, 1.5, ("a", "b"), (0, 3), f"{tmp_path}/models"]
    mapping = "{'x': '/path'}"
    assert done.stdout == f"{str(values)[:-1]}, {mapping}] 3 25\n", done.stderr
