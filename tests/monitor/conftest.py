"""A server with a model, one that fails, and an ensemble of two steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import DOUBLE, write_model

RAISE = """
    def execute(self, requests):
        raise ValueError("no")
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [ 2 ] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [ 2 ] }]
ensemble_scheduling {
  step [
    {
      model_name: "double" model_version: -1
      input_map { key: "x" value: "x" } output_map { key: "y" value: "between" }
    },
    {
      model_name: "double-again" model_version: -1
      input_map { key: "x" value: "between" } output_map { key: "y" value: "y" }
    }
  ]
}
"""


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Path:
    """Models that double, an ensemble that uses them, and one that fails."""
    directory = tmp_path_factory.mktemp("repository")
    for name, methods in [("double", DOUBLE), ("double-again", DOUBLE), ("fail", RAISE)]:
        write_model(directory, name, methods, inputs={"x": ("FP32", [2])})
    (directory / "quadruple" / "1").mkdir(parents=True)
    (directory / "quadruple" / "config.pbtxt").write_text(ENSEMBLE)
    return directory
