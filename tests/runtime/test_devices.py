"""The threads and devices that a backend takes: its own code, in a process without Triton.

A GPU that cannot be used needs a stand-in: without any, Triton itself refuses a model for one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import hermes.runtime
from hermes.runtime._threads import fair_threads, usable_cores
from tests.runtime.onnx_models import write_double

RUNTIME = Path(hermes.runtime.__file__).parent


class ModelError(Exception):
    """Triton's exception for a model that cannot be loaded."""


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Return a function: a module of a backend, as it is imported in Triton's stub."""
    utils = ModuleType("triton_python_backend_utils")
    utils.TritonModelException = ModelError  # type: ignore[attr-defined] # a stand-in
    monkeypatch.setitem(sys.modules, utils.__name__, utils)

    def load(path: str, name: str) -> Any:
        specification = importlib.util.spec_from_file_location(name, RUNTIME / path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, name, module)
        specification.loader.exec_module(module)
        return module

    for shared in ("batching", "sequences", "threads"):
        load(f"_{shared}.py", f"hermes_{shared}")
    return load


@pytest.fixture
def version(tmp_path: Path) -> Path:
    write_double(tmp_path, "double")
    return tmp_path / "double" / "1"


def config(**settings: Any) -> dict[str, Any]:
    return {"name": "m", "default_model_filename": "", "max_batch_size": 0, **settings}


def test_onnx_session_has_its_share_of_the_cores_and_does_not_spin(
    backend: Any, version: Path
) -> None:
    opened = backend("backends/onnxruntime/hermes_session.py", "hermes_session").open_session
    groups = [{"kind": "KIND_CPU", "count": 10_000}]

    options = opened(version, config(instance_group=groups)).get_session_options()

    assert options.intra_op_num_threads == 1
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


def test_onnx_session_has_the_threads_that_are_configured(backend: Any, version: Path) -> None:
    opened = backend("backends/onnxruntime/hermes_session.py", "hermes_session").open_session
    parameters = {"intra_op_thread_count": {"string_value": "3"}}

    options = opened(version, config(parameters=parameters)).get_session_options()

    assert options.intra_op_num_threads == 3


def test_torch_has_its_share_of_the_cores_or_what_is_configured(backend: Any) -> None:
    taken: list[int] = []
    torch = SimpleNamespace(set_num_threads=taken.append)
    set_threads = backend("backends/pytorch/model.py", "hermes_pytorch")._set_threads

    set_threads(torch, {}, config(instance_group=[{"kind": "KIND_CPU", "count": 10_000}]))
    set_threads(torch, {"INTRA_OP_THREAD_COUNT": "3"}, config())

    assert taken == [1, 3]


def test_instances_share_the_cores_that_this_process_may_use() -> None:
    cores = usable_cores()

    assert 1 <= cores <= len(os.sched_getaffinity(0))
    assert fair_threads({}) == cores
    assert fair_threads({"instance_group": [{"count": cores}]}) == 1
    assert fair_threads({"instance_group": [{"count": 1}, {"count": 1}]}) == max(1, cores // 2)
    gpus = {"count": 1, "gpus": list(range(cores + 1))}
    assert fair_threads({"instance_group": [gpus]}) == 1


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for cpu in os.sched_getaffinity(0):
        directory = tmp_path / f"cpu{cpu}" / "topology"
        directory.mkdir(parents=True)
        (directory / "thread_siblings_list").write_text("0-999\n")

    assert usable_cores(tmp_path) == 1


def test_threads_count_where_the_machine_does_not_tell_its_cores(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_gpu_that_onnxruntime_cannot_use_is_an_error(backend: Any, version: Path) -> None:
    opened = backend("backends/onnxruntime/hermes_session.py", "hermes_session").open_session

    with pytest.raises(ModelError, match=r"GPU 0.*onnxruntime-gpu.*KIND_CPU"):
        opened(version, config(), device=0)


def test_gpu_that_torch_cannot_use_is_an_error(backend: Any) -> None:
    torch = SimpleNamespace(
        __version__="2.0", cuda=SimpleNamespace(is_available=lambda: False), device=lambda *d: d
    )
    args = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}
    device = backend("backends/pytorch/model.py", "hermes_pytorch")._device

    with pytest.raises(ModelError, match=r"GPU 1.*cannot use CUDA.*KIND_CPU"):
        device(torch, args, config())
    assert device(torch, {**args, "model_instance_kind": "CPU"}, config()) == ("cpu",)
