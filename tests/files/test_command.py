"""``hermes infer``: files in, files out, and the numbers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest

from hermes.aeriel.client import TransportName
from hermes.aeriel.serve import TritonInstance, serve
from tests.helpers import DOUBLE, wait_until, write_model
from tests.stateful import BATCHING, RUNNING_SUM


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    repository = tmp_path_factory.mktemp("models")
    write_model(repository, "rows", DOUBLE, inputs={"x": ("FP32", [3])})
    write_model(repository, "windows", DOUBLE, inputs={"x": ("FP32", [2, 8])})
    write_model(repository, "sums", RUNNING_SUM, inputs={"x": ("FP32", [3])}, config=BATCHING)
    with serve(repository, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


def infer(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hermes", "infer", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with two files of rows, and one of a series."""
    for number in range(2):
        (tmp_path / f"part-{number}").mkdir()
        with h5py.File(tmp_path / f"part-{number}" / "a.h5", "w") as file:
            file["x"] = np.full((20, 3), number, np.float32)
    with h5py.File(tmp_path / "series.h5", "w") as file:
        file["strain"] = np.arange(80, dtype=np.float32).reshape(2, 40)
        file["strain"].attrs.update({"dx": 0.25, "x0": 100.0})
    return tmp_path


def test_files_go_in_and_come_out(server: TritonInstance, data: Path) -> None:
    done = infer(server.endpoint.grpc, "rows", "part-*/a.h5", "--output-dir=out", cwd=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 files, 40 rows in ")
    assert "p99" in done.stdout
    for number in range(2):
        with h5py.File(data / "out" / f"part-{number}" / "a.h5") as file:
            assert np.array_equal(file["y"], np.full((20, 3), 2 * number))


def test_rows_are_sequences_of_a_model_with_a_state(server: TritonInstance, data: Path) -> None:
    options = ["--output-dir=out", "--rows-per-sequence=8"]
    done = infer(server.endpoint.grpc, "sums", "part-1/a.h5", *options, cwd=data)
    assert done.returncode == 0, done.stderr
    with h5py.File(data / "out" / "a.h5") as file:
        assert file["y"][:, 0].tolist() == [*range(1, 9), *range(1, 9), *range(1, 5)]


@pytest.mark.parametrize("transport", get_args(TransportName))
def test_tensors_travel_as_they_are_told(
    server: TritonInstance, data: Path, transport: str
) -> None:
    options = ["--output-dir=out", f"--transport={transport}"]
    server.endpoint.write(data / "endpoint.json")
    done = infer("endpoint.json", "rows", "part-1/a.h5", *options, cwd=data)
    assert done.returncode == 0, done.stderr
    with h5py.File(data / "out" / "a.h5") as file:
        assert np.array_equal(file["y"], np.full((20, 3), 2))


def test_requests_are_sent_at_a_rate(server: TritonInstance, data: Path) -> None:
    options = ["--output-dir=out", "--batch-size=1", "--rate-hz=20"]
    done = infer(server.endpoint.grpc, "rows", "part-1/a.h5", *options, cwd=data)
    assert done.returncode == 0, done.stderr
    with h5py.File(data / "out" / "a.h5") as file:
        assert json.loads(file.attrs["statistics"])["seconds"] > 19 / 20 - 0.05


def test_a_transport_that_is_none_is_a_line(server: TritonInstance, data: Path) -> None:
    options = ["--output-dir=out", "--transport=pigeon"]
    done = infer(server.endpoint.grpc, "rows", "part-1/a.h5", *options, cwd=data)
    assert done.returncode == 2
    assert "'pigeon' is not one of" in done.stderr


def test_numbers_are_rounded_where_that_is_asked_for(server: TritonInstance, data: Path) -> None:
    x = np.random.default_rng(1).standard_normal((20, 3)) * 1e-21
    with h5py.File(data / "double.h5", "w") as file:
        file["x"] = x
    arguments = [server.endpoint.grpc, "rows", "double.h5", "--output-dir=out"]
    done = infer(*arguments, cwd=data)
    assert done.returncode == 1
    assert "or give cast, to round it to float32 as it is read" in done.stderr
    done = infer(*arguments, "--cast", cwd=data)
    assert done.returncode == 0, done.stderr
    with h5py.File(data / "out" / "double.h5") as file:
        assert np.array_equal(file["y"], 2 * x.astype(np.float32))


def test_a_series_is_cut(server: TritonInstance, data: Path) -> None:
    server.endpoint.write(data / "endpoint.json")
    options = [
        "--window=2s",
        "--stride=4",
        "--shifts=0",
        "--shifts=-1",
        "--input-map=x=strain",
        "--outputs=y",
    ]
    done = infer("endpoint.json", "windows", "series.h5", "--output-dir=out", *options, cwd=data)
    assert done.returncode == 0, done.stderr
    with h5py.File(data / "out" / "series.h5") as file:
        assert file["y"].shape == (8, 2, 8)
        assert file["y"][0, :, 0].tolist() == [2.0, 80.0]
        assert file["y"].attrs["sample_rate"] == 1.0
        assert file["y"].attrs["start_time"] == 100.25


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["rows", "no-*.h5"], "matches no file"),
        (["rows", "part-0/a.h5", "--input-map=x"], "is not like x=/path"),
        (["rows", "part-0/a.h5", "--input-map=x=a", "--input-map=x=b"], "is given as a and as b"),
        (["rows", "part-0/a.h5", "--rows-per-sequence=4"], "model 'rows' keeps no state"),
        (["rows", "part-0/a.h5", "--stride=4"], "give the length of a window"),
        (["windows", "series.h5", "--window=1.1s"], "not a whole number of samples, but 4.4"),
        (["none", "part-0/a.h5"], "no model 'none'"),
        (["rows", "series.h5"], "has rows of float32 (40,)"),
        (["rows", "part-0/a.h5", "--output-dir=part-0"], "is an input too"),
    ],
)
def test_what_cannot_be_is_a_line(
    server: TritonInstance, data: Path, arguments: list[str], problem: str
) -> None:
    where = [] if "--output-dir=part-0" in arguments else ["--output-dir=out"]
    done = infer(server.endpoint.grpc, *where, *arguments, cwd=data)
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(data.glob("out/**/*.h5"))


def test_an_endpoint_file_that_is_none_is_a_line(data: Path) -> None:
    (data / "e.json").write_text("{}")
    done = infer("e.json", "rows", "series.h5", "--output-dir=out", cwd=data)
    assert done.returncode == 1
    assert "is not an endpoint file" in done.stderr


@pytest.mark.parametrize("model", ["rows", "sums"])
def test_ctrl_c_ends_it_at_once_whatever_the_model_does(
    server: TritonInstance, tmp_path: Path, model: str
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.full((200, 3), 109, np.float32)  # the model with a state takes 9 s for each
    command = [sys.executable, "-m", "hermes", "infer", server.endpoint.grpc, model, "a.h5"]
    with subprocess.Popen([*command, "--output-dir=out", "--rate-hz=5"], cwd=tmp_path) as process:
        wait_until((tmp_path / "out" / "a.h5.partial").exists, 30)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) != 0
    assert not (tmp_path / "out" / "a.h5").exists()
