"""What makes two servers one, and what a supervisor may import."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hermes.aeriel.supervise import ServerSpec
from hermes.aeriel.supervise._client import supervisor_environment

PLAIN = {"PATH": "/bin", "HERMES_STATE_HOME": "/state"}


@pytest.fixture
def spec(tmp_path: Path) -> ServerSpec:
    (tmp_path / "models").mkdir()
    return ServerSpec(model_repository=str(tmp_path / "models"))


def test_it_survives_its_file(spec: ServerSpec) -> None:
    for each in (spec, replace(spec, gpus=(0, "GPU-1a"), server_args=("--log-verbose=1",))):
        assert ServerSpec.from_json(each.to_json()) == each


def test_another_spelling_is_the_same_server(spec: ServerSpec, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "models")
    for spelling in (tmp_path / "link", tmp_path / "models" / ".." / "models"):
        other = replace(spec, model_repository=str(spelling))
        assert other.server_id(PLAIN) == spec.server_id(PLAIN)
    some, same = (replace(spec, gpus=gpus) for gpus in ((0, 3), (3, 0)))
    assert some.server_id(PLAIN) == same.server_id(PLAIN)
    assert replace(spec, timeout_s=1.0).server_id(PLAIN) == spec.server_id(PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"image": "triton.sif"},
        {"gpus": ()},
        {"n_gpus": 1},
        {"listen": "127.0.0.1"},
        {"insecure": True},
        {"server_args": ("--log-verbose=1",)},
        {"model_repository": "s3://bucket/models"},
    ],
)
def test_another_demand_is_another_server(spec: ServerSpec, change: dict[str, object]) -> None:
    assert replace(spec, **change).server_id(PLAIN) != spec.server_id(PLAIN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "variable",
    ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "HERMES_TRITON_HOME", "HERMES_STATE_HOME"],
)
def test_another_environment_is_another_server(spec: ServerSpec, variable: str) -> None:
    assert spec.server_id({**PLAIN, variable: "/other"}) != spec.server_id(PLAIN)


def test_nothing_beside_the_data_is_imported(tmp_path: Path) -> None:
    for name in ("html", "queue", "hermes", "grpc", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the data')")
    environment = supervisor_environment({**os.environ, "PYTHONPATH": f".::{os.pathsep}"})
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import html, queue, logging, hermes.aeriel.supervise"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_the_user_put_on_the_module_path_stays_there() -> None:
    environment = supervisor_environment({"PYTHONPATH": "/apps/numpy:relative:", "HOME": "/home"})
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert paths[0] == "/apps/numpy"
    assert "relative" not in paths
    assert "" not in paths
    assert environment["HOME"] == "/home"
