"""Real GPUs: the driver's view of them, their locks, and models that compute on them.

Run by `make gpu`; without a GPU each is skipped, and says why. The models of the CUDA driver alone
need nothing but Triton; those of onnxruntime and PyTorch install both for CUDA, some gigabytes.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.monitor import ServerMonitor
from hermes.aeriel.serve import serve
from hermes.aeriel.serve._nvml import list_gpus
from hermes.errors import GPUBusyError
from hermes.runtime import install_triton
from tests.helpers import remains, server_environment, wait_until, write_model
from tests.runtime.onnx_models import write_model as write_onnx

pytestmark = pytest.mark.gpu

ROWS = np.random.default_rng(0).standard_normal((64, 256), np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((256, 16), np.float32)
# How many GPUs the CUDA driver shows to a model's process.
COUNT = """
    def answer(self, request):
        import ctypes
        cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(-1)
        assert cuda.cuInit(0) == 0
        assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
        x = array(request, "x")
        return response(y=np.full_like(x, count.value))
"""
LINEAR = """
import pathlib, sys
import numpy as np
import torch

layer = torch.nn.Linear(256, 16, bias=False)
layer.weight.data = torch.from_numpy(np.load(sys.argv[1]).T.copy())
path = pathlib.Path(sys.argv[2])
path.parent.mkdir(parents=True)
torch.jit.script(layer).save(str(path))
"""
# Holds a server for its first argument, the model repository, until it is killed.
DRIVER = """
import sys, time
from hermes.aeriel.serve import serve

with serve(sys.argv[1], gpus=[0], ports="auto", wait=True, timeout_s=300) as instance:
    print(instance.server_id, flush=True)
    time.sleep(600)
"""
CONFIG = """
platform: "{platform}"
max_batch_size: 64
instance_group [{{ kind: KIND_GPU count: {count} }}]
input [{{ name: "{x}" data_type: TYPE_FP32 dims: [256] }}]
output [{{ name: "{y}" data_type: TYPE_FP32 dims: [16] }}]
"""


@pytest.fixture
def gpus() -> list[str]:
    """The UUIDs of this machine's GPUs."""
    return [gpu.uuid for gpu in list_gpus()]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("counting"), "count", COUNT)


@pytest.fixture(scope="module")
def cuda_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Triton whose onnxruntime and PyTorch are for CUDA; HERMES_GPU_TRITON_HOME keeps it."""
    named = os.environ.get("HERMES_GPU_TRITON_HOME")
    home = Path(named) if named else tmp_path_factory.mktemp("cuda")
    install_triton(home, packages=["onnxruntime-gpu[cuda,cudnn]", "torch"], report=print)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERMES_TRITON_HOME", str(home))
        yield home


def write_linear(backend: str, repository: Path, home: Path, count: int) -> None:
    """Write the model `linear`, y = x W, for GPUs, with some instances on each."""
    names = ("x", "y") if backend == "onnxruntime" else ("INPUT__0", "OUTPUT__0")
    platform = {"onnxruntime": "onnxruntime_onnx", "pytorch": "pytorch_libtorch"}[backend]
    config = CONFIG.format(platform=platform, count=count, x=names[0], y=names[1])
    if backend == "onnxruntime":
        write_onnx(
            repository,
            "linear",
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            [("x", TensorProto.FLOAT, ["n", 256])],
            [("y", TensorProto.FLOAT, ["n", 16])],
            config=config,
            constants=[numpy_helper.from_array(WEIGHTS, "w")],
        )
        return
    weights, script = repository.parent / "weights.npy", repository.parent / "linear.py"
    np.save(weights, WEIGHTS)
    script.write_text(LINEAR)
    model = repository / "linear" / "1" / "model.pt"
    subprocess.run([home / "current/bin/python3", script, weights, model], check=True)
    (repository / "linear" / "config.pbtxt").write_text(config)


def answers(
    endpoint: Endpoint, model: str, rows: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the model's only output for rows that are sent one by one, several in flight."""
    with InferenceClient(endpoint, model) as client:
        return np.concatenate(
            [next(iter(each.values())) for each in client.stream(np.split(rows, len(rows)))]
        )


def checked() -> str:
    """Return what `hermes check` says."""
    command = [sys.executable, "-m", "hermes", "check"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def used_bytes(uuid: str) -> int:
    (gpu,) = [gpu for gpu in list_gpus() if gpu.uuid == uuid]
    assert gpu.used_bytes is not None
    return gpu.used_bytes


def test_gpus_are_those_of_nvidia_smi() -> None:
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    found = [f"{gpu.index}, {gpu.uuid}, {gpu.model}" for gpu in list_gpus()]
    assert found == listed.splitlines()


def test_hermes_check_shows_them(gpus: list[str]) -> None:
    shown = checked()
    assert all(uuid in shown for uuid in gpus)


def test_a_model_sees_the_gpus_that_were_asked_for(
    image: Path | None, counting: Path, gpus: list[str]
) -> None:
    x = np.zeros((1, 1), np.float32)
    for asked in ([], [0], list(range(len(gpus)))):
        with serve(counting, image, gpus=asked, ports="auto", wait=True) as instance:
            shown = server_environment(instance.server_id)["CUDA_VISIBLE_DEVICES"]
            assert shown == ",".join(map(str, asked))
            if asked:
                assert answers(instance.endpoint, "count", x) == len(asked)


@pytest.mark.usefixtures("triton_home")
def test_no_other_server_gets_a_gpu_that_is_used(counting: Path, gpus: list[str]) -> None:
    with (
        serve(counting, gpus=[0], ports="auto", wait=True),
        pytest.raises(GPUBusyError),
        serve(counting, gpus=[gpus[0]], ports="auto", gpu_timeout_s=1),
    ):
        pass
    with serve(counting, gpus=[gpus[0]], ports="auto", gpu_timeout_s=1, wait=True):
        pass


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("backend", ["onnxruntime", "pytorch"])
def test_models_compute_on_the_gpu(
    backend: str, count: int, cuda_home: Path, tmp_path: Path, gpus: list[str]
) -> None:
    """Instances and memory on every GPU, and the numbers of the CPU but for TF32's rounding."""
    repository = tmp_path / "models"
    write_linear(backend, repository, cuda_home, count)
    free = [used_bytes(uuid) for uuid in gpus]
    with serve(
        repository, gpus=range(len(gpus)), ports="auto", wait=True, timeout_s=300
    ) as instance:
        on_gpu = answers(instance.endpoint, "linear", ROWS)
        taken = [used_bytes(uuid) - before for uuid, before in zip(gpus, free, strict=True)]
    with serve(repository, cpu=True, ports="auto", wait=True, timeout_s=300) as instance:
        on_cpu = answers(instance.endpoint, "linear", ROWS)
    np.testing.assert_allclose(on_cpu, ROWS @ WEIGHTS, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=0.1)
    assert min(taken) > 64 << 20


def test_a_model_without_instances_in_its_configuration_is_put_on_the_gpu(
    cuda_home: Path, tmp_path: Path
) -> None:
    """As Triton's own backend does it, with the answers of one that says KIND_GPU."""
    repository = tmp_path / "models"
    write_linear("onnxruntime", repository, cuda_home, 1)
    config = repository / "linear" / "config.pbtxt"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "instance_group" not in line))
    with serve(repository, gpus=[0], ports="auto", wait=True, timeout_s=300) as instance:
        log = instance.log_file.read_text()
        on_gpu = answers(instance.endpoint, "linear", ROWS)
    assert "linear_0 (GPU device 0)" in log
    np.testing.assert_allclose(on_gpu, ROWS @ WEIGHTS, rtol=0, atol=0.1)


def test_files_go_through_a_model_on_the_gpu(
    cuda_home: Path, tmp_path: Path, gpus: list[str]
) -> None:
    """A whole run of a command that takes a GPU that is free, and is run again."""
    write_linear("onnxruntime", tmp_path / "models", cuda_home, 2)
    rows = np.random.default_rng(2).standard_normal((5000, 256), np.float32)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["x"] = rows
    command = [sys.executable, "-m", "hermes", "infer", "--models", "models", "--n-gpus", "1"]
    command += ["linear", "rows.h5", "--output-dir", "out", "--linger-s", "0"]
    for _ in range(2):
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    # The server ends by itself, after the command.
    wait_until(lambda: f"{gpus[0]}: free" in checked(), timeout_s=30)
    with h5py.File(tmp_path / "out" / "rows.h5") as file:
        np.testing.assert_allclose(file["y"][:], rows @ WEIGHTS, rtol=0, atol=0.1)


def test_a_killed_driver_leaves_nothing_on_the_gpu(
    cuda_home: Path, tmp_path: Path, gpus: list[str]
) -> None:
    write_linear("onnxruntime", tmp_path / "models", cuda_home, 2)
    before = used_bytes(gpus[0])
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "models")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        server_id = driver.stdout.readline().strip()
        taken = used_bytes(gpus[0]) - before
        driver.send_signal(signal.SIGKILL)
    assert taken > 64 << 20
    wait_until(lambda: not remains(server_id), timeout_s=10)
    wait_until(lambda: used_bytes(gpus[0]) <= before + (16 << 20), timeout_s=10)


def test_the_monitor_shows_the_gpu(cuda_home: Path, tmp_path: Path, gpus: list[str]) -> None:
    write_linear("onnxruntime", tmp_path / "models", cuda_home, 1)
    with (
        serve(tmp_path / "models", gpus=[0], ports="auto", wait=True, timeout_s=300) as instance,
        ServerMonitor(instance.endpoint, tmp_path / "monitor.csv", interval_s=0.2),
    ):
        time.sleep(3)  # Triton asks the driver every two seconds
    with (tmp_path / "monitor.csv").open(newline="") as file:
        samples = [row for row in csv.DictReader(file) if row["kind"] == "gpu"]
    assert {row["name"] for row in samples} == {gpus[0]}
    assert {row["memory_used_bytes"] for row in samples[:1]} == {""}, "not known yet"
    assert min(float(row["memory_used_bytes"]) for row in samples[-3:]) > 64 << 20
