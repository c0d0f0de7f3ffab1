"""What a model's files say: what it takes, and whether they have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes.aeriel.files import RowPlan
from hermes.aeriel.repository import class_names, read_model
from hermes.errors import ModelLoadError, ModelNotFoundError

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input [{ name: "x", data_type: TYPE_FP32, dims: [1] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [1] }]
ensemble_scheduling {
  step [{ model_name: "%s" model_version: -1
          input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }]
}
"""
STEP = """
backend: "python"
max_batch_size: 4
input [{ name: "x", data_type: TYPE_FP32, dims: [1] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [1] }]
"""


def write(repository: Path, name: str, config: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)


def test_a_changed_step_is_a_changed_ensemble(tmp_path: Path) -> None:
    write(tmp_path, "whole", ENSEMBLE % "part")
    write(tmp_path, "part", ENSEMBLE % "step")  # an ensemble may have another one as its step
    write(tmp_path, "step", STEP)
    write(tmp_path, "other", STEP)
    before = read_model(str(tmp_path), "whole")
    assert before.specification is not None
    assert not before.specification.stateful
    (tmp_path / "other" / "1" / "model.py").write_text("# it has nothing to do with it")
    assert read_model(str(tmp_path), "whole").stamp == before.stamp
    (tmp_path / "step" / "1" / "model.py").write_text("# it has")
    assert read_model(str(tmp_path), "whole").stamp != before.stamp


def test_an_ensemble_keeps_a_state_if_a_step_does(tmp_path: Path) -> None:
    write(tmp_path, "whole", ENSEMBLE % "part")
    write(tmp_path, "part", ENSEMBLE % "step")
    write(tmp_path, "step", STEP + "sequence_batching { oldest {} }\n")
    model = read_model(str(tmp_path), "whole").specification
    assert model is not None
    assert model.stateful
    assert RowPlan.of(model, 0).rows_per_request == 1


def test_ensembles_of_each_other_are_read_once(tmp_path: Path) -> None:
    write(tmp_path, "one", ENSEMBLE % "two")
    write(tmp_path, "two", ENSEMBLE % "one")
    model = read_model(str(tmp_path), "one").specification
    assert model is not None
    assert not model.stateful


def test_what_a_configuration_leaves_to_the_server_is_not_guessed(tmp_path: Path) -> None:
    write(tmp_path, "step", STEP.replace("data_type: TYPE_FP32, ", ""))
    assert read_model(str(tmp_path), "step").specification is None


def test_what_lies_behind_a_link_counts(tmp_path: Path) -> None:
    write(tmp_path, "step", STEP)
    weights = tmp_path / "elsewhere"
    weights.mkdir()
    (tmp_path / "step" / "1").rmdir()
    (tmp_path / "step" / "1").symlink_to(weights)
    (weights / "up").symlink_to(tmp_path)  # a circle
    before = read_model(str(tmp_path), "step").stamp
    (weights / "model.py").write_text("# another one")
    assert read_model(str(tmp_path), "step").stamp != before


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("backend: 3", r"step/config.pbtxt cannot be understood: 1:10 : "),
        (
            "input [{ data_type: TYPE_FP32, dims: [ 99999999999999999999 ] }]",
            "cannot be understood",
        ),
        ("input [{ name: 'x', data_type: 77, dims: [ 4 ] }]", "config.pbtxt cannot be right"),
        ("input [{ name: 'x', data_type: TYPE_FP32, dims: [ -2 ] }]", "'x' has the dims"),
        ("ensemble_scheduling { step { model_name: '../step' } }", "names '../step' as a step"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_told_in_a_sentence(
    tmp_path: Path, given: str, wanted: str
) -> None:
    write(tmp_path, "step", given)
    with pytest.raises(ModelLoadError, match=wanted):
        read_model(str(tmp_path), "step")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../models/step", "n" * 300, "a\0b"])
def test_what_is_no_name_is_no_model(tmp_path: Path, name: str) -> None:
    write(tmp_path, "step", STEP)
    with pytest.raises(ModelNotFoundError, match="models there: step"):
        read_model(str(tmp_path), name)


def test_classes_have_the_names_in_the_label_file_of_their_output(tmp_path: Path) -> None:
    labelled = (
        '\noutput [{ name: "z", data_type: TYPE_FP32, dims: [2], label_filename: "names" }]\n'
    )
    write(tmp_path, "two", STEP + labelled)
    (tmp_path / "two" / "names").write_text("signal\nglitch, blip\n")
    write(tmp_path, "one", STEP)
    assert class_names(str(tmp_path), "two", "z") == ("signal", "glitch, blip")
    assert class_names(str(tmp_path), "two", "y") == ()
    assert class_names(str(tmp_path), "one", "") == ()
    assert class_names("s3://bucket/models", "two", "z") == ()
    (tmp_path / "two" / "names").unlink()
    with pytest.raises(ModelLoadError, match="label_filename 'names' cannot be read"):
        class_names(str(tmp_path), "two", "z")
