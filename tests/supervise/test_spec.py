"""What makes two servers one, and what a supervisor may import."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hermes.aeriel.supervise import ServerSpec, repository_stamp
from hermes.aeriel.supervise._client import supervisor_environment
from hermes.aeriel.supervise._spec import _DECIDING
from hermes.errors import ParameterError, ServerError

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
        {"repository_stamp": "changed"},
        {"cpu": True},
        {"stop_timeout_s": 7.0},
        {"gpus": ()},
        {"n_gpus": 1},
        {"listen": "127.0.0.1"},
        {"insecure": True},
        {"advertise": "login1"},
        {"server_args": ("--log-verbose=1",)},
        {"model_repository": "s3://bucket/models"},
    ],
)
def test_another_demand_is_another_server(spec: ServerSpec, change: dict[str, object]) -> None:
    assert replace(spec, **change).server_id(PLAIN) != spec.server_id(PLAIN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "variable",
    [*_DECIDING, "HERMES_STATE_HOME"],
)
def test_another_environment_is_another_server(spec: ServerSpec, variable: str) -> None:
    assert spec.server_id({**PLAIN, variable: "/other"}) != spec.server_id(PLAIN)


def test_another_spelling_of_an_image_is_the_same_server(spec: ServerSpec, tmp_path: Path) -> None:
    for name in ("a.sif", "b.sif"):
        (tmp_path / name).touch()
    (tmp_path / "link.sif").symlink_to("a.sif")
    ids = [
        replace(spec, image=str(tmp_path / name)).server_id(PLAIN)
        for name in ("a.sif", "link.sif", "b.sif")
    ]
    assert ids[0] == ids[1] != ids[2]


def test_an_image_that_is_no_file_stands_for_itself(
    spec: ServerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        ids.append(replace(spec, image="docker://triton").server_id(PLAIN))
        ids.append(replace(spec, image="site.sif").server_id(PLAIN))
    assert ids[:2] == ids[2:]


def test_another_triton_on_the_path_is_another_server(spec: ServerSpec, tmp_path: Path) -> None:
    environments = [{**PLAIN, "PATH": str(tmp_path / name)} for name in ("first", "second")]
    for environment in environments:
        program = Path(environment["PATH"]) / "tritonserver"
        program.parent.mkdir()
        program.touch(mode=0o755)
    first, second = (spec.server_id(environment) for environment in environments)
    assert len({first, second, spec.server_id(PLAIN)}) == 3
    # A container has its own.
    image = replace(spec, image="triton.sif")
    assert image.server_id(environments[0]) == image.server_id(environments[1])


def test_urls_are_compared_as_they_are(spec: ServerSpec) -> None:
    urls = ("s3://bucket/models", "s3://bucket/other/../models")
    first, second = (replace(spec, model_repository=url).server_id(PLAIN) for url in urls)
    assert first != second


def test_a_stamp_changes_with_every_file_but_caches(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    version = repository / "double" / "1"
    version.mkdir(parents=True)
    model = version / "model.py"
    model.write_text("one")
    stamps = [repository_stamp(str(repository))]

    def is_changed() -> bool:
        stamps.append(repository_stamp(str(repository)))
        return stamps[-1] != stamps[-2]

    assert not is_changed()
    model.write_text("other")
    assert is_changed()
    os.utime(model, (0, 0))
    assert is_changed()
    (version / "weights.npz").touch()
    assert is_changed()
    model.rename(version / "model2.py")
    assert is_changed()
    (version / "__pycache__").mkdir()
    (version / "__pycache__" / "model.pyc").touch()
    assert not is_changed()


def test_a_stamp_follows_links_once(tmp_path: Path) -> None:
    (tmp_path / "models" / "double").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models" / "double" / "1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "models")
    before = repository_stamp(str(tmp_path / "models"))
    (tmp_path / "elsewhere" / "model.py").touch()
    assert repository_stamp(str(tmp_path / "models")) != before


def test_a_stamp_has_the_files_beside_a_loop_of_links(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "up").symlink_to(tmp_path)
    stamps = {repository_stamp(str(tmp_path))}
    for name in ("one", "two"):
        (tmp_path / name / "config.pbtxt").touch()
        stamps.add(repository_stamp(str(tmp_path)))
    assert len(stamps) == 3


def test_a_stamp_has_files_whose_names_are_not_utf_8(tmp_path: Path) -> None:
    before = repository_stamp(str(tmp_path))
    (tmp_path / os.fsdecode(b"weights-\xff")).touch()
    assert repository_stamp(str(tmp_path)) != before


def test_a_server_keeps_the_models_that_it_has_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    spec = ServerSpec.of(str(tmp_path), image="triton.sif", n_gpus=1)
    assert spec == ServerSpec(
        model_repository=str(tmp_path),
        repository_stamp=repository_stamp(str(tmp_path)),
        image="triton.sif",
        n_gpus=1,
    )
    assert spec.provenance() == {"model_repository": str(tmp_path), "image": "triton.sif"}
    spec.check_unchanged()
    os.utime(tmp_path / "model.py", (0, 0))
    with pytest.raises(ServerError, match=f"{spec.server_id()}; run the pipeline again$"):
        spec.check_unchanged()


def test_a_repository_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"^model_repository: .*nowhere"):
        ServerSpec.of(str(tmp_path / "nowhere"))


def test_a_stamp_is_of_the_models_that_count(tmp_path: Path) -> None:
    for name in ("double", "other"):
        (tmp_path / name).mkdir()
    before = repository_stamp(str(tmp_path), ["double"])
    (tmp_path / "other" / "config.pbtxt").touch()
    assert repository_stamp(str(tmp_path), ["double"]) == before
    (tmp_path / "double" / "config.pbtxt").touch()
    assert repository_stamp(str(tmp_path), ["double"]) != before
    assert repository_stamp("s3://bucket/models") == "s3://bucket/models"


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


def test_a_relative_path_in_a_variable_is_one_below_the_callers_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = supervisor_environment(
        {
            "HERMES_TRITON_HOME": "triton",
            "HERMES_TRITON_BINARY": "../bin/tritonserver",
            "XDG_CACHE_HOME": "~/cache",
            "TMPDIR": "",
            "HERMES_IMAGE_PATH": "images::/images",
        }
    )
    assert environment["HERMES_TRITON_HOME"] == str(tmp_path / "triton")
    assert environment["HERMES_TRITON_BINARY"] == str(tmp_path / "../bin/tritonserver")
    assert environment["XDG_CACHE_HOME"] == "~/cache"
    assert not environment["TMPDIR"]
    assert environment["HERMES_IMAGE_PATH"] == f"{tmp_path / 'images'}::/images"


def test_relative_paths_to_two_tritons_are_two_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, ids = ServerSpec(model_repository=str(tmp_path)), set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        ids.add(spec.server_id({"HERMES_TRITON_HOME": "triton"}))
    assert len(ids) == 2
