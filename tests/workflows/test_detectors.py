"""Strain of several detectors through `Validate`: real files, and those that gwpy writes."""

from __future__ import annotations

import json
from importlib.metadata import files as files_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers import DOUBLE, write_model
from tests.workflows.conftest import Luigi

needs_gwpy = pytest.mark.skipif(find_spec("gwpy") is None, reason="gwpy is not installed")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that double windows of 256 samples of two and of three channels."""
    repository = tmp_path_factory.mktemp("models")
    for name, channels in (("two", 2), ("three", 3)):
        write_model(repository, name, DOUBLE, inputs={"x": ("FP64", [channels, 256])})
    return repository


def validate(luigi: Luigi, models: Path, **parameters: Any) -> str:
    """Run Validate, which has to succeed, and return what it says."""
    code, said = run(luigi, models, **parameters)
    assert code == 0, said
    return said


def run(luigi: Luigi, models: Path, **parameters: Any) -> tuple[int, str]:
    given = {"model_name": "two", "output_dir": "out", "window": "256", **parameters}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
    }
    result = luigi(
        "--module=workflows.validate",
        "Validate",
        f"--model-repository={models}",
        *(f"--{name.replace('_', '-')}={text}" for name, text in texts.items()),
    )
    return result.returncode, result.stdout


def windows(channels: list[NDArray[Any]], stride: int = 256) -> NDArray[Any]:
    """Return the windows of stacked channels as numpy has them."""
    series = np.stack(channels)
    views = np.lib.stride_tricks.sliding_window_view(series, 256, axis=-1)
    return np.moveaxis(views, 0, 1)[::stride]


@needs_gwpy
def test_a_real_file_of_three_detectors_goes_through(
    luigi: Luigi, models: Path, tmp_path: Path
) -> None:
    name = "HLV-HW100916-968654552-1.hdf"
    (packed,) = [file for file in files_of("gwpy") or () if file.name == name]
    channels = ["V1:h_16384Hz", "H1:LDAS-STRAIN", "L1:LDAS-STRAIN"]
    validate(
        luigi,
        models,
        model_name="three",
        inputs=str(packed.locate()),
        input_map={"x": channels},
        stride="0.0078125s",
    )
    with h5py.File(packed.locate()) as file:
        expected = 2 * windows([file[channel][:] for channel in channels], 128)
    with h5py.File(tmp_path / "out" / "merged.h5") as merged:
        assert np.array_equal(merged["y"], expected)
        assert merged["y"].attrs["sample_rate"] == 128.0
        assert list(merged["index/start_time"]) == [968654552.0]
