from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hermes._cleanup import stop_container
from hermes._directory import ServerDirectory, new_server_id, state_home
from hermes.aeriel.serve import SingularityInstance, serve
from hermes.aeriel.serve.runtimes._singularity import exec_environment, start_options
from hermes.aeriel.serve.runtimes._singularity_stop import container
from hermes.aeriel.serve.runtimes._spython import start_error, start_instance
from hermes.errors import (
    ImageError,
    InstanceExistsError,
    InstanceStartError,
    ParameterError,
    SingularityNotFoundError,
    TritonNotFoundError,
)
from tests.helpers import server_environment
from tests.serve.instances import instances, remains
from tests.serve.runtimes import doubled


def unique_name() -> str:
    return f"hermes-test-{uuid.uuid4().hex[:12]}"


DIRECTORY = Path("/state/a, b/server")


def mounts(options: list[str]) -> list[list[str]]:
    """Return the fields of each --mount."""
    texts = [value for flag, value in pairwise(options) if flag == "--mount"]
    return [next(csv.reader([text])) for text in texts]


def test_a_local_repository_is_mounted_whatever_its_path() -> None:
    path = '/data/a "b", c:d\n=e'
    [fields, _] = mounts(start_options(path, use_driver=False, directory=DIRECTORY))
    assert fields == ["type=bind", f"source={path}", "destination=/hermes/models", "ro"]


def test_the_server_s_directory_is_mounted_where_it_is_and_can_be_written() -> None:
    options = start_options("s3://bucket/models", use_driver=False, directory=DIRECTORY)
    assert mounts(options) == [["type=bind", f"source={DIRECTORY}", f"destination={DIRECTORY}"]]


def test_the_driver_is_taken_in_for_gpus() -> None:
    options = start_options("gs://bucket/models", use_driver=True, directory=DIRECTORY)
    assert options[0] == "--nv"


def test_wanted_variables_win_in_either_runtime_and_paths_of_the_host_stay_out() -> None:
    caller = {"CUDA_VISIBLE_DEVICES": "7", "PYTHONPATH": "/host", "AWS_PROFILE": "me"}
    result = exec_environment(caller, {"CUDA_VISIBLE_DEVICES": "0,3"})
    assert result["APPTAINERENV_CUDA_VISIBLE_DEVICES"] == "0,3"
    assert result["SINGULARITYENV_CUDA_VISIBLE_DEVICES"] == "0,3"
    assert result["AWS_PROFILE"] == "me"
    assert "PYTHONPATH" not in result


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("FATAL:   instance mine already exists\n", InstanceExistsError),
        ("\x1b[31mFATAL:   could not open image a.sif: image format not recognized", ImageError),
        ("FATAL: squashfuse_ll exited: trying to read the squashfs image.", ImageError),
        ("FATAL:   While making image from oci registry: error fetching image", ImageError),
        ("INFO:  Converting\nFATAL:   no space left on device", InstanceStartError),
    ],
)
def test_a_failed_start_is_told_by_the_words_of_the_runtime(
    output: str, error: type[Exception]
) -> None:
    result = start_error("a.sif", "mine", output)
    assert type(result) is error
    assert "INFO" not in str(result)


def test_without_a_container_runtime_the_error_says_so(
    doubler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SingularityNotFoundError, match=r"triton\.sif"):
        refused(doubler, "triton.sif")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a*", "ä", "../a", "x" * 200])
def test_a_name_that_the_runtime_would_not_take_is_refused(name: str, doubler: Path) -> None:
    with pytest.raises(ParameterError, match="name"):
        refused(doubler, "triton.sif", name=name)


def refused(repository: Path, image: str | Path, **options: Any) -> None:
    with serve(repository, image, ports="auto", **options):
        pytest.fail("it started")


@pytest.fixture(scope="class")
def served(triton_image: Path, doubler: Path) -> Iterator[SingularityInstance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "/host")
        with serve(doubler, triton_image, ports="auto", wait=True) as instance:
            assert isinstance(instance, SingularityInstance)
            yield instance


@pytest.mark.container
class TestServer:
    """One server in a container, and what is true of it while it runs."""

    def test_paths_of_the_host_stay_out(self, served: SingularityInstance) -> None:
        assert "PYTHONPATH" not in server_environment(served.server_id)

    def test_the_repository_cannot_be_written_from_inside(
        self, served: SingularityInstance, doubler: Path
    ) -> None:
        command = ["apptainer", "exec", f"instance://{served.name}", "touch", "/hermes/models/x"]
        touched = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Read-only" in touched.stderr
        assert [path.name for path in doubler.iterdir()] == ["double"]

    def test_a_taken_name_is_an_error_that_leaves_its_owner_alone(
        self, served: SingularityInstance, triton_image: Path, doubler: Path
    ) -> None:
        before = instances()[served.name]
        with pytest.raises(InstanceExistsError, match=served.name):
            refused(doubler, triton_image, name=served.name)
        assert instances()[served.name] == before
        assert doubled(served) == [2, 4]

    def test_a_name_that_was_taken_meanwhile_leaves_its_owner_alone(
        self, served: SingularityInstance, apptainer: str
    ) -> None:
        with pytest.raises(InstanceExistsError, match=served.name):
            start_instance(apptainer, served.image, served.name, "hermes-somebody-else", [])
        stop_container(container(apptainer, served.name, "hermes-somebody-else"))
        assert served.name in instances()
        assert doubled(served) == [2, 4]


@pytest.mark.container
@pytest.mark.parametrize("delay_s", [0.02, 0.1, 0.2])
def test_nothing_is_left_of_a_start_that_was_cut_off(
    delay_s: float, apptainer: str, triton_image: Path
) -> None:
    name = unique_name()
    start = subprocess.Popen(
        [apptainer, "instance", "start", str(triton_image), name],
        env={**os.environ, "HERMES_SERVER_ID": name},
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay_s)
    start.kill()
    start.wait()
    assert stop_container(container(apptainer, name, name, is_starting=True)) == []
    time.sleep(0.5)
    assert remains(name) == []


@pytest.mark.container
def test_an_instance_of_its_own_that_a_killed_start_left_is_no_hindrance(
    apptainer: str, triton_image: Path, doubler: Path
) -> None:
    """It came up after those were gone who would have ended it, and after it was looked for."""
    directory = ServerDirectory(state_home() / new_server_id())
    command = [apptainer, "--quiet", "instance", "start", str(triton_image), directory.server_id]
    environment = {**os.environ, "HERMES_SERVER_ID": directory.server_id}
    subprocess.run(command, env=environment, check=True)
    with serve(doubler, triton_image, directory=directory, listen="unix", wait=True) as instance:
        assert instance.is_ready()
    assert remains(directory.server_id) == []


@pytest.mark.container
def test_an_instance_that_is_not_in_the_list_is_ended_too(
    apptainer: str, triton_image: Path, tmp_path: Path
) -> None:
    name = unique_name()
    command = [apptainer, "--quiet", "instance", "start", str(triton_image), name]
    environment = {**os.environ, "HERMES_SERVER_ID": name, "HOME": str(tmp_path)}
    subprocess.run(command, env=environment, check=True)
    assert name not in instances()
    assert stop_container(container(apptainer, name, name)) == []
    assert remains(name) == []


@pytest.mark.container
def test_of_two_who_want_a_name_at_once_one_gets_it(triton_image: Path, doubler: Path) -> None:
    name = unique_name()
    together = threading.Barrier(3)

    def attempt(_: int) -> str:
        together.wait()
        try:
            with serve(doubler, triton_image, name=name, ports="auto", wait=True) as instance:
                doubled(instance)
                together.wait(60)
        except InstanceExistsError:
            together.wait(60)
            return "taken"
        return "served"

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(attempt, range(3))) == ["served", "taken", "taken"]
    assert name not in instances()


def wait_until_gone(server_id: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while left := remains(server_id):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.mark.container
def test_apptainer_needs_no_command_called_singularity(
    apptainer: str,
    triton_image: Path,
    doubler: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "apptainer").symlink_to(apptainer)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("singularity") is None
    with serve(doubler, triton_image, ports="auto", wait=True) as instance:
        assert doubled(instance) == [2, 4]
    assert remains(instance.server_id) == []


@pytest.mark.container
def test_an_image_without_triton_is_an_error(
    triton_image: Path, doubler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_BIND", f"{tmp_path}:/opt/tritonserver")
    name = unique_name()
    with pytest.raises(TritonNotFoundError, match=str(triton_image)):
        refused(doubler, triton_image, name=name)
    assert name not in instances()


@pytest.mark.container
@pytest.mark.parametrize("kind", ["garbage", "empty", "truncated", "directory", "missing"])
def test_what_is_no_image_is_an_error(
    kind: str,
    triton_image: Path,
    doubler: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    image = tmp_path / "triton.sif"
    if kind == "truncated":
        with triton_image.open("rb") as whole:
            image.write_bytes(whole.read(1_000_000))
    elif kind == "directory":
        image.mkdir()
    elif kind != "missing":
        image.write_bytes(b"garbage" * 1000 if kind == "garbage" else b"")
    name = unique_name()
    with pytest.raises(ImageError, match=str(image)):
        refused(doubler, image, name=name)
    assert name not in instances()
    assert capfd.readouterr() == ("", "")


@pytest.mark.container
def test_any_other_failure_is_told_in_the_words_of_the_runtime(
    triton_image: Path, doubler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_BIND", "/nowhere/at/all:/data")
    name = unique_name()
    with pytest.raises(InstanceStartError, match="/nowhere/at/all doesn't exist"):
        refused(doubler, triton_image, name=name)
    assert name not in instances()


@pytest.mark.root
@pytest.mark.container
@pytest.mark.parametrize("listen", ["0.0.0.0", "unix"])  # noqa: S104 (what asks for keys)
def test_its_directory_reaches_a_server_from_where_no_container_would_look(
    triton_image: Path, doubler: Path, monkeypatch: pytest.MonkeyPatch, listen: str
) -> None:
    monkeypatch.chdir("/")  # the working directory is mounted, and /tmp
    with tempfile.TemporaryDirectory(dir="/opt", prefix="h") as home:
        monkeypatch.setenv("HERMES_STATE_HOME", home)
        with serve(doubler, triton_image, listen=listen, ports="auto", wait=True) as instance:
            assert (Path(home) / instance.server_id).is_dir()
            assert len(instance.command) > 1
