"""Models that ask for a GPU, where there is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import tritonclient.grpc
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from hermes._directory import state_home
from hermes.aeriel.serve import serve
from hermes.aeriel.serve._cpu import check_gpu_models, gpu_lines, make_cpu_repository, on_cpu
from hermes.aeriel.supervise._spec import ServerSpec
from hermes.errors import ModelLoadError, ParameterError
from tests.helpers import server_pid, wait_until

CONFIG = """\
# KIND_GPU is what exporters write
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [2] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [2] }]
parameters { key: "KIND_GPU # \\" gpus: [1]" value { string_value: 'KIND_GPU' } }
instance_group [
  { kind: KIND_GPU count: 2 gpus: [ 0, 1 ] },
  { gpus: 1, kind:KIND_GPU },
  { kind: KIND_CPU, count: 3 }
]
"""


def parsed(config: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(config, model_config_pb2.ModelConfig())


def test_lines_that_ask_for_a_gpu_are_found() -> None:
    assert gpu_lines(CONFIG) == [8, 9]
    assert gpu_lines(CONFIG.replace("KIND_GPU", "KIND_MODEL")) == []


def test_only_kinds_and_gpus_change() -> None:
    wanted = parsed(CONFIG)
    for group in wanted.instance_group[:2]:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
        del group.gpus[:]
    assert parsed(on_cpu(CONFIG)) == wanted


@pytest.mark.parametrize("config", ["", 'name: "m"', "instance_group [{ gpus: [0] }]", "{{{", '"'])
def test_what_asks_for_no_gpu_stays_as_it_is(config: str) -> None:
    assert on_cpu(config) == config


KINDS = st.sampled_from(["KIND_AUTO", "KIND_CPU", "KIND_GPU", "KIND_MODEL"])
GROUPS = st.lists(st.tuples(KINDS, st.integers(1, 9), st.lists(st.integers(0, 7), max_size=3)))


@given(GROUPS, st.text(max_size=20), st.booleans())
def test_every_configuration_is_read_as_protobuf_reads_it(
    groups: Sequence[tuple[str, int, list[int]]], text: str, in_one_line: bool
) -> None:
    config = model_config_pb2.ModelConfig(name=text, default_model_filename="gpus: [1] KIND_GPU")
    for kind, count, gpus in groups:
        config.instance_group.add(kind=kind, count=count, gpus=gpus)
    written = text_format.MessageToString(config, as_one_line=in_one_line)
    changed = parsed(on_cpu(written))
    assert len(gpu_lines(written)) == sum(kind == "KIND_GPU" for kind, _, _ in groups)
    assert (changed.name, changed.default_model_filename) == (text, config.default_model_filename)
    for before, after in zip(config.instance_group, changed.instance_group, strict=True):
        assert (after.kind == after.KIND_CPU) == (before.kind in {before.KIND_CPU, before.KIND_GPU})
        assert after.count == before.count


@pytest.fixture
def repository(doubler: Path, tmp_path: Path) -> Path:
    """A repository, under a path that needs care, one of whose two models asks for a GPU."""
    repository = tmp_path / "mod els\n'ü"
    for name in ("double", "plain"):
        (repository / name / "1").mkdir(parents=True)
        for file in ("config.pbtxt", "1/model.py"):
            text = (doubler / "double" / file).read_text()
            (repository / name / file).write_text(text)
    with (repository / "double" / "config.pbtxt").open("a") as config:
        config.write("instance_group [{ kind: KIND_GPU, gpus: [0] }]\n")
    return repository


def refuse(repository: Path, *server_args: str, gpus: Sequence[int] | None = ()) -> None:
    check_gpu_models(str(repository), server_args, gpus, {})


class TestCheck:
    def test_the_line_to_change_is_named(self, repository: Path) -> None:
        with pytest.raises(ModelLoadError) as error:
            refuse(repository)
        config = repository / "double" / "config.pbtxt"
        n_lines = len(config.read_text().splitlines())
        assert f"{config}, line {n_lines}, requires a GPU (KIND_GPU)" in str(error.value)
        assert "the server sees none: gpus=[] hides all" in str(error.value)
        assert "cpu=True (--cpu)" in str(error.value)

    @pytest.mark.parametrize(
        "server_args",
        [
            ["--exit-on-error=false"],
            ["--model-control-mode=explicit"],
            ["--model-control-mode", "explicit", "--load-model", "plain"],
        ],
    )
    def test_a_model_that_need_not_load_is_let_be(
        self, repository: Path, server_args: Sequence[str]
    ) -> None:
        refuse(repository, *server_args)

    @pytest.mark.parametrize("model", ["double", "*"])
    def test_a_model_that_is_to_load_is_not(self, repository: Path, model: str) -> None:
        with pytest.raises(ModelLoadError):
            refuse(repository, "--model-control-mode=explicit", f"--load-model={model}")

    def test_a_machine_without_a_driver_has_none(self, repository: Path) -> None:
        if Path("/dev/nvidiactl").exists() or Path("/dev/nvmap").exists():
            pytest.skip("this machine has a GPU")
        for gpus in (None, [0]):
            with pytest.raises(ModelLoadError, match="NVIDIA's driver cannot be used here"):
                refuse(repository, gpus=gpus)

    @pytest.mark.usefixtures("triton_home")
    def test_no_server_is_started_for_it(self, repository: Path) -> None:
        with (
            pytest.raises(ModelLoadError, match="requires a GPU"),
            serve(repository, gpus=[], ports="auto"),
        ):
            pytest.fail("it was started")

    def test_who_wants_the_cpu_wants_no_gpu(self, repository: Path) -> None:
        for wanted in ({"gpus": [0]}, {"n_gpus": 1}):
            with (
                pytest.raises(ParameterError, match="give cpu or GPUs"),
                serve(repository, cpu=True, ports="auto", **wanted),
            ):
                pytest.fail("it was started")

    def test_nothing_is_known_of_a_url(self) -> None:
        check_gpu_models("s3://bucket/models", (), (), {})


def overlay_of(repository: Path, directory: Path) -> Path:
    overlay = directory / "overlay"
    make_cpu_repository(repository, overlay)
    return overlay


class TestOverlay:
    def test_the_models_are_served_on_the_cpu(self, repository: Path, image: Path | None) -> None:
        with serve(repository, image, cpu=True, ports="auto", wait=True) as instance:
            client = tritonclient.grpc.InferenceServerClient(instance.endpoint.grpc)
            for model in ("double", "plain"):
                config = client.get_model_config(model).config
                (group,) = config.instance_group
                assert group.kind == group.KIND_CPU
                assert client.is_model_ready(model)
            client.close()
        assert not list(state_home().glob(f"{instance.server_id}*"))

    def test_they_are_after_a_crash_too(self, repository: Path, image: Path | None) -> None:
        with serve(repository, image, cpu=True, listen="unix", wait=True) as instance:
            os.kill(server_pid(instance.server_id), signal.SIGKILL)
            wait_until(lambda: not instance.is_alive())
            instance.restart()
            assert instance.wait(60)

    def test_the_repository_is_as_it_was(self, repository: Path, tmp_path: Path) -> None:
        before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
        overlay = overlay_of(repository, tmp_path)
        assert {path: path.read_bytes() for path in before} == before
        assert (overlay / "plain").readlink() == repository / "plain"
        assert (overlay / "double" / "1").readlink() == repository / "double" / "1"
        assert not (overlay / "double" / "config.pbtxt").is_symlink()

    def test_further_configurations_change_too(self, repository: Path, tmp_path: Path) -> None:
        """Those that --model-config-name chooses."""
        (repository / "plain" / "configs").mkdir()
        (repository / "plain" / "configs" / "fast.pbtxt").write_text(CONFIG)
        (repository / "plain" / "configs" / "slow.pbtxt").write_text("")
        overlay = overlay_of(repository, tmp_path)
        assert (overlay / "plain" / "configs" / "fast.pbtxt").read_text() == on_cpu(CONFIG)
        assert (overlay / "plain" / "configs" / "slow.pbtxt").is_symlink()

    def test_bytes_that_are_no_text_stay(self, repository: Path, tmp_path: Path) -> None:
        config = repository / "double" / "config.pbtxt"
        config.write_bytes(b'name: "\xff"\r\ninstance_group [{ kind: KIND_GPU }]')
        overlay = overlay_of(repository, tmp_path)
        wanted = b'name: "\xff"\r\ninstance_group [{ kind: KIND_CPU }]'
        assert (overlay / "double" / "config.pbtxt").read_bytes() == wanted

    def test_one_of_an_earlier_start_is_made_anew(self, repository: Path, tmp_path: Path) -> None:
        overlay_of(repository, tmp_path)
        (repository / "plain").rename(repository / "other")
        overlay = overlay_of(repository, tmp_path)
        assert sorted(path.name for path in overlay.iterdir()) == ["double", "other"]
        assert (repository / "other" / "1" / "model.py").exists()


def test_a_server_on_the_cpu_is_another_server() -> None:
    on_gpu, on_cpu_ = (ServerSpec(model_repository="models", cpu=cpu) for cpu in (False, True))
    assert on_gpu.server_id() != on_cpu_.server_id()
    assert ServerSpec.from_json(on_cpu_.to_json()) == on_cpu_
