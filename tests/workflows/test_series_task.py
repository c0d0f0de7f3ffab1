"""Time series through the tasks: a row for each window, at the right time, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import InferenceOptions, Request, WindowOptions, infer_file
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import DataError
from tests.workflows.conftest import Luigi, write_model

RATE = 256
SOURCE = """
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [utils.InferenceResponse(self.outputs(request)) for request in requests]

    def outputs(self, request):
        x = utils.get_input_tensor_by_name(request, "x").as_numpy()
        return [utils.Tensor("sum", x.sum(axis=-1)), utils.Tensor("last", x[..., 0, -1:])]
"""
CONFIG = """
backend: "python"
max_batch_size: {max_batch_size}
input [{{ name: "x", data_type: TYPE_FP32, dims: {dims} }}]
output [
  {{ name: "sum", data_type: TYPE_FP32, dims: {sums} }},
  {{ name: "last", data_type: TYPE_FP32, dims: {lasts} }}
]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that add up windows of two channels and 64 samples, with and without batches."""
    repository = tmp_path_factory.mktemp("models")
    for name, size, batch in [
        ("batched", 8, []),
        ("fixed", 0, [8]),
        ("single", 0, []),
        ("free", 0, [-1]),
    ]:
        config = CONFIG.format(
            max_batch_size=size, dims=[*batch, 2, 64], sums=[*batch, 2], lasts=[*batch, 1]
        )
        write_model(repository, name, config, SOURCE)
    return repository


@pytest.fixture(scope="module")
def server(models: Path, triton_home: Path) -> Iterator[TritonInstance]:
    with serve(models, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


def write_series(file: Path, n_samples: int, **attributes: Any) -> NDArray[np.float32]:
    # Whole numbers, so that sums are exact in any order.
    series = np.random.default_rng(7).integers(-99, 99, (2, n_samples)).astype(np.float32)
    with h5py.File(file, "w") as opened:
        opened["strain"] = series
        opened["strain"].attrs.update(attributes)
    return series


def expected(
    series: NDArray[np.float32], stride: int, shifts: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    begin = -min(shifts)
    end = series.shape[1] - max(shifts) - 64 + 1
    windows = np.array(
        [
            [
                channel[at + shift : at + shift + 64]
                for channel, shift in zip(series, shifts, strict=True)
            ]
            for at in range(begin, end, stride)
        ]
    )
    return windows.sum(axis=-1), windows[:, 0, -1:]


def infer(
    server: TritonInstance,
    model: str,
    directory: Path,
    cut: WindowOptions,
    on_progress: Callable[[int, int], None] = lambda *_: None,
    *,
    cast: bool = False,
) -> h5py.File:
    output = directory / "out.h5"
    request = Request(
        input_files=(directory / "a.h5",),
        output_file=output,
        options=InferenceOptions(model_name=model, cast=cast, **asdict(cut)),
        fingerprint="the same",
        provenance={},
    )
    with InferenceClient(server.endpoint, model) as client:
        infer_file(client, request, on_progress)
    return h5py.File(output)


class TestInferFile:
    @pytest.mark.parametrize("model", ["batched", "fixed", "single", "free"])
    def test_a_row_is_a_window(self, server: TritonInstance, tmp_path: Path, model: str) -> None:
        series = write_series(tmp_path / "a.h5", 1003, Xspacing=1 / RATE, Xstart=1000.0)
        sums, lasts = expected(series, 16)
        with infer(server, model, tmp_path, WindowOptions(window="0.25s", stride="16")) as opened:
            assert np.array_equal(opened["sum"], sums)
            assert np.array_equal(opened["last"], lasts)
            assert dict(opened["sum"].attrs) == {
                "window": 64,
                "stride": 16,
                "sample_rate": 16.0,
                "start_time": 1000.0,
            }
            assert opened.attrs["rows"] == len(sums)
            # Not what fills the last request up.
            assert json.loads(opened.attrs["statistics"])["rows"] == len(sums)

    def test_samples_of_another_precision_are_rounded(
        self, server: TritonInstance, tmp_path: Path
    ) -> None:
        series = 1e-21 * np.random.default_rng(2).standard_normal((2, 999))
        with h5py.File(tmp_path / "a.h5", "w") as opened:
            opened["strain"] = series
        with pytest.raises(DataError, match="or give cast"):
            infer(server, "batched", tmp_path, WindowOptions(window="64"))
        with infer(server, "batched", tmp_path, WindowOptions(window="64"), cast=True) as opened:
            assert np.array_equal(opened["last"], expected(series.astype(np.float32), 64)[1])

    @pytest.mark.parametrize("model", ["batched", "fixed"])
    def test_fewer_windows_than_a_batch_are_enough(
        self, server: TritonInstance, tmp_path: Path, model: str
    ) -> None:
        series = write_series(tmp_path / "a.h5", 130)
        with infer(server, model, tmp_path, WindowOptions(window="64")) as opened:
            assert np.array_equal(opened["sum"], expected(series, 64)[0])
            assert len(opened["sum"]) == 2
            assert "sample_rate" not in opened["sum"].attrs

    def test_channels_are_shifted(self, server: TritonInstance, tmp_path: Path) -> None:
        series = write_series(tmp_path / "a.h5", 777, sample_rate=RATE, t0=50.0)
        cut = WindowOptions(window="64", stride="10", shifts=("-0.125s", "3"))
        with infer(server, "batched", tmp_path, cut) as opened:
            assert np.array_equal(opened["sum"], expected(series, 10, (-32, 3))[0])
            assert opened["sum"].attrs["start_time"] == 50.0 + 32 / RATE
            assert list(opened["sum"].attrs["shifts"]) == [-32, 3]

    @pytest.mark.parametrize("model", ["batched", "fixed", "single"])
    def test_goes_on_at_the_window_where_it_stopped(
        self, server: TritonInstance, tmp_path: Path, model: str
    ) -> None:
        series = write_series(tmp_path / "a.h5", 2000)
        cut = WindowOptions(window="64", stride="8", shifts=("0", "5"))
        seen: list[int] = []

        def stop_after_100(done: int, _: int) -> None:
            seen.append(done)
            if len(seen) > 1 and done - seen[0] >= 100:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            infer(server, model, tmp_path, cut, stop_after_100)
        stopped_at, seen = seen[-1], []
        with infer(server, model, tmp_path, cut, lambda done, _: seen.append(done)) as opened:
            assert seen[0] == stopped_at
            assert np.array_equal(opened["sum"], expected(series, 8, (0, 5))[0])
            assert opened.attrs["resumed_at_row"] == stopped_at


def validate(luigi: Luigi, models: Path, *flags: str, **parameters: str) -> tuple[int, str]:
    result = luigi(
        "--module=workflows.validate",
        "Validate",
        f"--model-repository={models}",
        "--model-name=batched",
        "--inputs=*.h5",
        "--output-dir=out",
        *flags,
        *(f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()),
    )
    return result.returncode, result.stdout


def test_a_target_has_a_value_for_each_window(luigi: Luigi, models: Path, tmp_path: Path) -> None:
    series = write_series(tmp_path / "a.h5", 640, dx=1 / RATE, x0=1000.0)
    with h5py.File(tmp_path / "a.h5", "a") as opened:
        opened["double"] = series.astype(np.float64)
        opened["double"].attrs.update(opened["strain"].attrs)
        opened["expected"] = expected(series, 64)[1]
    code, said = validate(
        luigi,
        models,
        "--cast",
        window="0.25s",
        input_map='{"x": "double"}',
        target="expected",
        output_name="last",
        metrics='["reference"]',
    )
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == 10
    assert report["reference"]["n_elements"] == 10
    assert report["reference"]["n_disagreeing"] == 0
    with h5py.File(tmp_path / "out" / "predictions" / "a.h5") as opened:
        assert opened["last"].attrs["sample_rate"] == 4.0
    with h5py.File(tmp_path / "out" / "merged.h5") as opened:
        assert dict(opened["last"].attrs) == {"window": 64, "stride": 64, "sample_rate": 4.0}
        assert list(opened["index/start_time"]) == [1000.0]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"window": "0.1s"}, "window: '0.1s' is not a whole number of samples, but 25.6 at 256 Hz"),
        ({"window": "2000"}, "has 1000 samples; a window takes 2000"),
        ({"window": "32"}, "wants rows of float32"),
        ({"stride": "32"}, "give the length of a window"),
        ({"window": "64", "shifts": '["1"]'}, "has 2 channels for 1 shifts"),
    ],
)
def test_what_cannot_be_is_refused_before_a_server_starts(
    luigi: Luigi, models: Path, tmp_path: Path, parameters: dict[str, str], problem: str
) -> None:
    write_series(tmp_path / "a.h5", 1000, sample_rate=RATE)
    code, said = validate(luigi, models, **parameters)
    assert code != 0
    assert problem in said
    assert not (tmp_path / "out" / "logs").exists()
