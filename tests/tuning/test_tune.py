"""`hermes tune` finds settings that are faster, and leaves the model as it is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import matplotlib as mpl
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from hermes.aeriel.files import InferenceOptions
from hermes.aeriel.serve import serve
from hermes.aeriel.tuning import (
    Limits,
    Measurement,
    ModelSettings,
    Settings,
    TunedModel,
    Tuning,
    draw,
    free_name,
    table,
)
from hermes.aeriel.tuning._measure import measure_rows
from hermes.aeriel.tuning._settings import (
    batch_candidates,
    batcher_candidates,
    in_flight_candidates,
    instance_candidates,
)
from hermes.errors import OutputError, ParameterError
from tests.workflows.conftest import write_model

pytest.importorskip("matplotlib")

# Waits as long for one row as for many: the more at a time, the faster.
MODEL = """
import time
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05)
        outputs = [utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("y", array)]) for array in outputs]
"""
CONFIG = """
backend: "python"
max_batch_size: 8  # a comment
input [{ name: "x", data_type: TYPE_FP32, dims: [ 2 ] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [ 2 ] }]
"""
NOW = Settings(model=ModelSettings(instances=1), batch_size=8, in_flight=4)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_model(tmp_path / "models", "classifier", CONFIG, MODEL)
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "a.h5", "w") as file:
        file["x"] = np.zeros((500, 2), np.float32)
    return tmp_path


def command(*arguments: str) -> list[str]:
    words = ["tune", "models", "classifier", "--inputs", "data/*.h5", *arguments]
    return [sys.executable, "-m", "hermes", *words]


def run(directory: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    bin_directory = Path(sys.executable).parent
    return subprocess.run(
        arguments,
        cwd=directory,
        env={
            **os.environ,
            "HERMES_STATE_HOME": str(directory / "state"),
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_answers_that_come_at_once_are_as_fast_as_they_are(directory: Path) -> None:
    four = f"{CONFIG}instance_group [{{ kind: KIND_CPU, count: 4 }}]"
    write_model(directory / "slow", "classifier", four, MODEL.replace("0.05", "0.5"))
    settings = Settings(model=ModelSettings(instances=4), batch_size=1, in_flight=4)
    given = InferenceOptions(model_name="classifier", input_map={"x": "x"})
    files = [[directory / "data" / "a.h5"]]
    with serve(directory / "slow", listen="unix", gpus=[], wait=True) as server:
        rows_per_s = measure_rows(server.endpoint, files, given, settings, seconds=0.7)
    assert 0 < rows_per_s < 4 / 0.5 * 2


def test_more_instances_are_found_where_they_are_faster(directory: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "tuning.md"
    (block,) = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    done = run(directory, ["sh", "-ec", block])
    assert done.returncode == 0, done.stdout
    model = directory / "models" / "classifier"
    assert (model / "config.pbtxt").read_text() == CONFIG
    tuned = (model / "config.tuned.pbtxt").read_text()
    config = parse(tuned)
    assert config.instance_group[0].count > 1
    config.ClearField("instance_group")
    assert config == parse(CONFIG)
    assert tuned.startswith("# Written by hermes tune: ")
    assert "as large as max_batch_size, 8: a larger one may be faster" in done.stdout
    gain = float(tuned.split("tune: ")[1].split()[0])
    assert gain > 1.3
    assert f"{gain:.2f} times the rows per second of now, with --batch-size" in done.stdout
    assert (model / "tuned.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in model.iterdir()} == {
        *("1", "config.pbtxt", "config.tuned.pbtxt", "tuned.png")
    }


def test_an_interrupt_stops_the_server_and_writes_nothing(directory: Path) -> None:
    process = subprocess.Popen(
        command(),
        cwd=directory,
        env={**os.environ, "HERMES_STATE_HOME": str(directory / "state")},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    assert "rows/s" in process.stderr.readline()  # the first measurement
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted. Nothing was written." in said
    assert "Traceback" not in said
    assert len(list((directory / "models" / "classifier").iterdir())) == 2
    deadline = time.monotonic() + 15
    while any((directory / "state").glob("*/spec.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--inputs", "no.h5"), "no.h5"),
        (("--batch-size", "9"), "batch_size: 9 rows, but model 'classifier' takes 8 at most"),
        (("--seconds", "1"), "--seconds"),
    ],
)
def test_bad_input_is_refused_before_a_server_starts(
    directory: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run(directory, command(*arguments))
    assert done.returncode != 0
    assert sentence in done.stdout
    assert not (directory / "state").exists()


def test_a_configuration_gets_the_settings_and_keeps_the_rest(tmp_path: Path) -> None:
    config = """
    platform: "onnxruntime_onnx" max_batch_size: 16
    instance_group [{ kind: KIND_CPU count: 2 }]
    dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 7 }
    parameters { key: "intra_op_thread_count" value { string_value: "3" } }
    """
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    model = TunedModel.read(tmp_path, "m")
    now = ModelSettings(instances=2, threads=3, preferred=(4,))
    assert model.settings == now
    assert model.on_cpu
    assert parse(model.text(now)) == model.config
    for settings in (
        ModelSettings(instances=5, threads=1, preferred=(8, 16)),
        ModelSettings(instances=1, threads=0, preferred=()),
        ModelSettings(instances=1, threads=0, preferred=None),
    ):
        changed = parse(model.text(settings))
        assert replace(model, config=changed).settings == settings
        assert changed.instance_group[0].kind == model.config.instance_group[0].kind
        if settings.preferred is not None:
            assert changed.dynamic_batching.max_queue_delay_microseconds == 7


def test_an_ensemble_is_refused_with_the_names_of_its_steps(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    step = 'ensemble_scheduling { step [{ model_name: "a" }, { model_name: "b" }] }'
    (tmp_path / "m" / "config.pbtxt").write_text(step)
    with pytest.raises(ParameterError, match="tune its steps: a, b"):
        TunedModel.read(tmp_path, "m")


@pytest.mark.parametrize("copy", [True, False])
def test_a_repository_has_the_model_with_other_settings(directory: Path, copy: bool) -> None:
    model = TunedModel.read(directory / "models", "classifier")
    model.lay_out(directory / "other", ModelSettings(instances=3), copy=copy)
    there = directory / "other" / "classifier"
    assert (there / "1" / "model.py").read_text() == MODEL
    assert (there / "1").is_symlink() is not copy
    assert parse((there / "config.pbtxt").read_text()).instance_group[0].count == 3
    assert (directory / "models" / "classifier" / "config.pbtxt").read_text() == CONFIG


def test_candidates_stay_within_what_the_model_takes() -> None:
    limits = Limits(most_rows=8, max_batch_size=8, n_cores=2, has_threads=True)
    assert [each.in_flight for each in in_flight_candidates(NOW, 2)] == [8, 2]
    assert [each.batch_size for each in batch_candidates(NOW, limits, 4)] == [2]
    models = [each.model for each in instance_candidates(NOW, limits)]
    assert [(each.instances, each.threads) for each in models] == [(2, 1), (1, 1), (1, 2), (4, 1)]
    without = replace(limits, has_threads=False)
    assert {each.model.threads for each in instance_candidates(NOW, without)} == {0}
    on_gpu = replace(limits, n_cores=0)
    assert [each.model.instances for each in instance_candidates(NOW, on_gpu)] == [1, 2, 3, 4]
    # A request that is as large as a batch leaves nothing to the batcher.
    assert not list(batcher_candidates(NOW, limits))
    small = replace(NOW, batch_size=2)
    assert [each.model.preferred for each in batcher_candidates(small, limits)] == [
        *((), (8,), None)
    ]


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    assert free_name(tmp_path, "config.tuned", ".pbtxt").name == "config.tuned.pbtxt"
    for name in ("config.tuned.pbtxt", "config.tuned-2.pbtxt"):
        (tmp_path / name).touch()
    assert free_name(tmp_path, "config.tuned", ".pbtxt").name == "config.tuned-3.pbtxt"
    with pytest.raises(OutputError, match="--output-dir"):
        free_name(tmp_path / "nothing", "config.tuned", ".pbtxt")


def test_the_table_has_what_failed_and_the_fastest_first(tmp_path: Path) -> None:
    model = TunedModel(repository=tmp_path, name="m", config=model_config_pb2.ModelConfig())
    tuning = Tuning(
        model=model,
        limits=Limits(most_rows=8, max_batch_size=8, n_cores=2, has_threads=True),
        measurements=[
            Measurement(settings=NOW, rows_per_s=1000, memory_bytes=50 << 20),
            Measurement(settings=replace(NOW, in_flight=8), rows_per_s=1040, memory_bytes=1 << 20),
            Measurement(settings=replace(NOW, batch_size=2), problem="out of memory"),
            Measurement(settings=replace(NOW, in_flight=2), rows_per_s=1200, memory_bytes=1 << 20),
        ],
    )
    assert [line.split() for line in table(tuning).splitlines()] == [
        ["instances", "threads", "batcher", "batch", "in", "flight", "rows/s", "memory,", "MiB"],
        ["1", "default", "off", "8", "2", "1,200", "1", "fastest"],
        ["1", "default", "off", "8", "8", "1,040", "1"],
        ["1", "default", "off", "8", "4", "1,000", "50", "now"],
        ["1", "default", "off", "2", "4", "failed"],
    ]
    assert tuning.is_faster
    tuning.confirmed = [(1000.0, 900.0), (1000.0, 1100.0)]
    assert not tuning.is_faster
    with mpl.rc_context({"text.usetex": True}):  # of the user; LaTeX may not be there
        draw(tmp_path / "plot.png", tuning)
    assert (tmp_path / "plot.png").stat().st_size > 1000
