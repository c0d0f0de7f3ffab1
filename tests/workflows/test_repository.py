"""What a model's files say: what it takes, and whether they have changed."""

from __future__ import annotations

from pathlib import Path

from workflows._repository import read_model

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
    assert before.stateful is False
    (tmp_path / "other" / "1" / "model.py").write_text("# it has nothing to do with it")
    assert read_model(str(tmp_path), "whole").stamp == before.stamp
    (tmp_path / "step" / "1" / "model.py").write_text("# it has")
    assert read_model(str(tmp_path), "whole").stamp != before.stamp


def test_an_ensemble_keeps_a_state_if_a_step_does(tmp_path: Path) -> None:
    write(tmp_path, "whole", ENSEMBLE % "part")
    write(tmp_path, "part", ENSEMBLE % "step")
    write(tmp_path, "step", STEP + "sequence_batching { oldest {} }\n")
    model = read_model(str(tmp_path), "whole")
    assert model.stateful
    assert model.max_batch_size == 1


def test_ensembles_of_each_other_are_read_once(tmp_path: Path) -> None:
    write(tmp_path, "one", ENSEMBLE % "two")
    write(tmp_path, "two", ENSEMBLE % "one")
    assert read_model(str(tmp_path), "one").stateful is False
