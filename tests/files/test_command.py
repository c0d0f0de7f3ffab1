"""``hermes infer``: files in, files out, and the numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
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
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve import TritonInstance, serve
from tests.files.runs import write_models
from tests.helpers import wait_until
from tests.terminal import Terminal


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    repository = write_models(tmp_path_factory.mktemp("models"))
    with serve(repository, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


def infer(*arguments: str | Path, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hermes", "infer", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        input=given,
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


def test_files_share_a_client_and_have_their_own_numbers(
    server: TritonInstance, data: Path
) -> None:
    for number in range(12):
        with h5py.File(data / f"many-{number:02}.h5", "w") as file:
            file["x"] = np.full((1 + number, 3), number, np.float32)
    arguments = [server.endpoint.grpc, "rows", "many-*.h5", "--output-dir=out", "--resume"]
    done = infer(*arguments, cwd=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 files, 78 rows in ")
    of_server = []
    for number in range(12):
        with h5py.File(data / "out" / f"many-{number:02}.h5") as file:
            assert np.array_equal(file["y"], np.full((1 + number, 3), 2 * number))
            numbers = json.loads(file.attrs["statistics"])
            assert (numbers["rows"], sum(numbers["latencies"].values())) == (
                1 + number,
                1 + number // 8,
            )
            of_server.append(numbers["server"]["requests"])
            assert 0 < numbers["seconds"] < 60
    # Asked for after the first file, and then once in a while, for all since.
    assert of_server[0] == 1
    assert sum(of_server) <= 16
    assert not list((data / "out").glob("*partial*"))


def test_files_that_fail_are_named_and_the_others_are_there(
    server: TritonInstance, data: Path
) -> None:
    for number in range(4):
        with h5py.File(data / f"many-{number}.h5", "w") as file:
            file["x"] = np.full((2, 3), np.nan if number in (1, 2) else 1, np.float32)
    options = ["--output-dir=out", "--finite=inputs"]
    done = infer(server.endpoint.grpc, "rows", "many-*.h5", *options, cwd=data)
    assert done.returncode == 30
    assert "2 of 4 files cannot be used:" in done.stderr
    assert "many-1.h5, dataset 'x'" in done.stderr
    assert "many-2.h5, dataset 'x'" in done.stderr
    assert sorted(path.name for path in (data / "out").glob("*.h5")) == ["many-0.h5", "many-3.h5"]


def test_a_terminal_shows_how_far_it_is(server: TritonInstance, data: Path) -> None:
    command = [sys.executable, "-m", "hermes", "infer", server.endpoint.grpc, "rows"]
    slowly = ["--batch-size=1", "--rate-hz=20", "--max-in-flight=1"]
    terminal = Terminal([*command, "part-0/a.h5", "part-1/a.h5", "--output-dir=out", *slowly], data)
    terminal.wait_for("infer rows\n0 of 2 files · 0 rows")
    terminal.wait_for("part-0/a.h5")
    terminal.wait_for("rows/s · about 0:0")
    assert terminal.end()[0].startswith("2 files, 40 rows in ")
    terminal.close()


def test_ctrl_c_in_a_terminal_says_how_to_go_on(server: TritonInstance, data: Path) -> None:
    command = [sys.executable, "-m", "hermes", "infer", server.endpoint.grpc, "rows"]
    slowly = ["--batch-size=1", "--rate-hz=5", "--max-in-flight=1"]
    terminal = Terminal([*command, "part-0/a.h5", "--output-dir=out", *slowly], data)
    terminal.wait_for(" of 20")
    terminal.interrupt()
    assert terminal.end() == ["hermes: interrupted. The same command with --resume goes on."]
    assert terminal.process.returncode == 130
    terminal.close()


def test_ps_goes_on_until_ctrl_c(server: TritonInstance, data: Path) -> None:
    terminal = Terminal([sys.executable, "-m", "hermes", "ps", "--watch"], data)
    terminal.wait_for("ID  ")
    terminal.interrupt()
    terminal.end()
    assert terminal.process.returncode == 0
    assert "Traceback" not in terminal.text
    terminal.close()


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
    assert done.returncode == 30
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


def test_datasets_are_channels(server: TritonInstance, data: Path) -> None:
    with h5py.File(data / "channels.h5", "w") as file:
        for number, name in enumerate(("H1:STRAIN", "L1:STRAIN")):
            file[name] = np.arange(40, dtype=np.float32) + 100 * number
    options = ["--output-dir=out", "--window=8", "--stride=4", "--outputs=y"]
    channels = '--input-map={"x": ["H1:STRAIN", "L1:STRAIN"]}'
    done = infer(server.endpoint.grpc, "windows", "channels.h5", *options, channels, cwd=data)
    assert done.returncode == 0, done.stderr
    with h5py.File(data / "out" / "channels.h5") as file:
        assert file["y"].shape == (9, 2, 8)
        assert file["y"][1, :, 0].tolist() == [8.0, 208.0]
        assert json.loads(file.attrs["input_map"]) == {"x": ["H1:STRAIN", "L1:STRAIN"]}


def test_files_of_channels_are_brought_together(server: TritonInstance, data: Path) -> None:
    for number, name in enumerate("HL"):
        for start in (0, 10, 20)[: 3 - number]:
            with h5py.File(data / f"{name}-{start}.h5", "w") as file:
                file["strain"] = np.arange(40, dtype=np.float32) + 100 * number + start
                file["strain"].attrs.update({"dx": 0.25, "x0": start})
    options = ["--output-dir=out", "--window=8"]
    files = ["--inputs=H1=H-*.h5", "--inputs=L1=L-*.h5"]
    done = infer(server.endpoint.grpc, "windows", *files, *options, cwd=data)
    assert done.returncode == 35
    assert "H-20.h5 (20 to 30 s)" in done.stderr
    done = infer(server.endpoint.grpc, "windows", *files, *options, "--overlap", cwd=data)
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stderr
    assert sorted(path.name for path in (data / "out").iterdir()) == ["H-0+L-0.h5", "H-10+L-10.h5"]
    with h5py.File(data / "out" / "H-10+L-10.h5") as file:
        assert file["y"][:, :, 0].tolist() == [[2 * at, 200 + 2 * at] for at in range(10, 50, 8)]


def test_a_file_is_run_for_each_time_slide(server: TritonInstance, data: Path) -> None:
    options = ["--output-dir=out", "--window=8", "--input-map=x=strain", "--resume"]
    slides = ['--shifts=[[0, 0], ["0", "4"]]']
    done = infer(server.endpoint.grpc, "windows", "series.h5", *options, *slides, cwd=data)
    assert done.returncode == 0, done.stderr
    for number, n_rows in ((0, 5), (1, 4)):
        with h5py.File(data / "out" / f"slide-{number}" / "series.h5") as file:
            first = [[16 * row, 80 + 16 * row + 8 * number] for row in range(n_rows)]
            assert file["y"][:, :, 0].tolist() == first
    slides = ["--n-slides=3", "--slide-step=1s"]
    done = infer(server.endpoint.grpc, "windows", "series.h5", *options, *slides, cwd=data)
    assert done.returncode == 0, done.stderr
    with h5py.File(data / "out" / "slide-2" / "series.h5") as file:
        assert json.loads(file.attrs["shifts_s"]) == [0.0, 2.0]
        assert file["y"][0, :, 0].tolist() == [0.0, 96.0]


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        (["rows", "no-*.h5"], "matches no file", 35),
        (["rows", "part-0/a.h5", "--input-map=x"], "is not like x=/path", 35),
        (["rows", "part-0/a.h5", '--input-map={"x": 1}'], "is not like x=/path", 35),
        (["rows", "part-0/a.h5", "--input-map=x=a", '--input-map={"x": "b"}'], "as a and as b", 35),
        (["rows", "part-0/a.h5", "--rows-per-sequence=4"], "model 'rows' keeps no state", 30),
        (["rows", "part-0/a.h5", "--stride=4"], "give the length of a window", 30),
        (["windows", "series.h5", "--window=1.1s"], "not a whole number of samples, but 4.4", 30),
        (["none", "part-0/a.h5"], "no model 'none'", 30),
        (["rows", "series.h5"], "has rows of float32 (40,)", 30),
        (["rows", "part-0/a.h5", "--output-dir=part-0"], "is an input too", 35),
        (["rows", "part-0/a.h5", "--inputs=H1=series.h5"], "is given with other files", 35),
        (["rows", "--inputs=series.h5"], "is not like x=/path", 35),
        (["windows", "series.h5", "--window=8", "--shifts=[0, null]"], "list of the shift of", 35),
        ([], "model: is missing", 35),
        (["rows"], "inputs: no file was given", 35),
        (["rows", "part-0/a.h5", "--chunk=3/2"], "'3/2' is not like K/N, with K from 1 to N", 35),
        (["rows", "--files-from=none.txt"], "none.txt cannot be read: No such file", 35),
        (["rows", "part-0/a.h5", "--n-gpus=1"], "n_gpus: applies to the server that --models", 35),
        (["rows", "--models=m", "part-0/a.h5"], "m does not exist", 35),
    ],
)
def test_what_cannot_be_is_a_line(
    server: TritonInstance, data: Path, arguments: list[str], problem: str, code: int
) -> None:
    where = [] if "--output-dir=part-0" in arguments else ["--output-dir=out"]
    named = [] if "--models=m" in arguments else [server.endpoint.grpc]
    done = infer(*named, *where, *arguments, cwd=data)
    assert done.returncode == code
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(data.glob("out/**/*.h5"))


def test_an_endpoint_file_that_is_none_is_a_line(data: Path) -> None:
    (data / "e.json").write_text("{}")
    done = infer("e.json", "rows", "series.h5", "--output-dir=out", cwd=data)
    assert done.returncode == 35
    assert "is not an endpoint file" in done.stderr


@pytest.mark.parametrize(
    ("left", "problem"),
    [(False, "there is no such file"), (True, "nothing listens there")],
    ids=["no file", "the file of a server that was killed"],
)
def test_an_endpoint_file_that_does_not_come_is_a_line(
    data: Path, left: bool, problem: str
) -> None:
    if left:
        Endpoint(grpc=f"unix:{data}/gone").write(data / "e.json")
    started = time.monotonic()
    arguments = ["e.json", "rows", "part-0/a.h5", "--output-dir=out", "--wait-s=1"]
    done = infer(*arguments, cwd=data)
    assert done.returncode == 30
    assert f"no server came at e.json in 1 s: {problem}" in done.stderr
    assert time.monotonic() - started < 15


def test_an_endpoint_file_that_is_to_come_is_waited_for(server: TritonInstance, data: Path) -> None:
    command = [sys.executable, "-m", "hermes", "infer", "e.json", "rows", "part-1/a.h5"]
    Endpoint(grpc=f"unix:{data}/gone").write(data / "e.json")
    with subprocess.Popen([*command, "--output-dir=out", "--wait-s=60"], cwd=data) as process:
        time.sleep(3)
        assert process.poll() is None
        server.endpoint.write(data / "e.json")
        assert process.wait(60) == 0
    assert (data / "out" / "a.h5").exists()


def test_a_server_that_comes_back_elsewhere_is_found_by_its_file(
    server: TritonInstance, data: Path
) -> None:
    """The address of the first one leads nowhere, once the file is there."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        Endpoint(grpc=f"127.0.0.1:{gone.getsockname()[1]}").write(data / "e.json")
        command = [sys.executable, "-m", "hermes", "infer", "e.json", "rows", "part-1/a.h5"]
        process = subprocess.Popen([*command, "--output-dir=out", "--wait-s=20"], cwd=data)
        gone.accept()[0].close()  # it believes in it
    with process:
        (data / "e.json").unlink()
        time.sleep(2)
        server.endpoint.write(data / "e.json")
        assert process.wait(60) == 0
    assert (data / "out" / "a.h5").exists()


def test_what_is_complete_is_left_alone_where_the_model_is_known_to_be_the_same(
    server: TritonInstance, data: Path
) -> None:
    arguments = [server.endpoint.grpc, "rows", "part-*/a.h5", "--output-dir=out"]
    outputs = [data / "out" / f"part-{number}" / "a.h5" for number in range(2)]

    def run(*more: str) -> tuple[str, list[bool]]:
        """Return what it says, and which outputs are new."""
        before = [output.stat().st_ino if output.exists() else 0 for output in outputs]
        done = infer(*arguments, *more, cwd=data)
        assert done.returncode == 0, done.stderr
        after = [output.stat().st_ino for output in outputs]
        return done.stdout, [one != other for one, other in zip(before, after, strict=True)]

    assert run("--resume")[1] == [True, True]
    assert run("--resume") == ("2 of 2 files are complete already\n", [False, False])
    outputs[0].unlink()
    said, new = run("--resume")
    assert said.startswith("1 of 2 files are complete already\n1 file, 20 rows in")
    assert new == [True, False]
    with h5py.File(data / "part-1" / "a.h5", "a") as file:
        file["x"][0] = 7
    assert run("--resume")[1] == [False, True]
    assert run("--resume", "--batch-size=2")[1] == [True, True]
    assert run()[1] == [True, True]  # the server may have another model


def test_files_come_from_a_list_and_in_chunks(server: TritonInstance, data: Path) -> None:
    for number in range(2, 5):
        (data / f"part-{number}").mkdir()
        shutil.copy(data / "part-1" / "a.h5", data / f"part-{number}" / "a.h5")
    others = [f"{data}/part-{number}/a.h5" for number in range(1, 5)]
    (data / "list").write_text("\n".join(["part-0/a.h5", "", *others]))
    arguments = [server.endpoint.grpc, "rows", "--files-from=list", "--output-dir=out"]
    there: list[Path] = []
    for number, n_files in ((1, 2), (2, 3)):
        done = infer(*arguments, f"--chunk={number}/2", cwd=data)
        assert done.stdout.startswith(f"{n_files} files, "), done.stderr
        there = sorted((data / "out").glob("*/a.h5"))
        assert len(there) == (2 if number == 1 else 5)
    assert [file.parent.name for file in there] == [f"part-{number}" for number in range(5)]
    done = infer(*arguments, "--chunk=1/9", cwd=data)
    assert (done.returncode, done.stdout) == (0, "0 of 0 files are complete already\n")
    given = (data / "list").read_text()
    done = infer(*arguments[:2], "--files-from=-", "--output-dir=out", cwd=data, given=given)
    assert done.stdout.startswith("5 files, "), done.stderr
    done = infer(*arguments[:2], "--files-from=-", "--output-dir=out", cwd=data, given="no\n")
    assert (done.returncode, done.stderr) == (
        35,
        "hermes: files_from: - names 'no', which is not a file\n",
    )


def test_chunks_of_a_pattern_that_matches_other_files_meanwhile(
    server: TritonInstance, data: Path
) -> None:
    arguments = [server.endpoint.grpc, "rows", "*/a.h5", "--output-dir=out"]
    assert infer(*arguments, "--chunk=1/2", cwd=data).returncode == 0
    # It comes first, and moves the file of the second chunk out of it.
    (data / "part--").mkdir()
    shutil.copy(data / "part-1" / "a.h5", data / "part--" / "a.h5")
    done = infer(*arguments, "--chunk=2/2", cwd=data)
    assert done.returncode == 35
    problem = "chunk: the files are not those that were divided first: 3, not 2, with "
    assert done.stderr.startswith(f"hermes: {problem}'part--/a.h5'. Give every chunk the same list")
    (data / "list").write_text("part-0/a.h5\npart-1/a.h5\n")
    done = infer(*arguments[:2], "--files-from=list", "--output-dir=out", "--chunk=2/2", cwd=data)
    assert done.returncode == 0, done.stderr
    # Everything that was divided is there: others may be.
    for number in (1, 2):
        assert infer(*arguments, f"--chunk={number}/2", cwd=data).returncode == 0
    assert len([*(data / "out").glob("*/a.h5")]) == 3


def test_names_that_are_not_utf_8(server: TritonInstance, data: Path) -> None:
    name = os.fsdecode(b"strain-\xff.h5")
    shutil.copy(data / "part-1" / "a.h5", data / name)
    done = infer(server.endpoint.grpc, "rows", name, "--output-dir=out", cwd=data)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "hermes", "merge", f"out/{name}", "--output-file=merged.h5"]
    subprocess.run(command, cwd=data, check=True)
    with h5py.File(data / "out" / name) as file, h5py.File(data / "merged.h5") as merged:
        assert file.attrs["input_file"] == str(data / name)
        assert merged["index/files"][0] == os.fsencode(data / name)
        assert np.array_equal(merged["y"], file["y"])


def test_predictions_of_another_file_of_the_same_name_are_not_replaced(
    server: TritonInstance, data: Path
) -> None:
    arguments = [server.endpoint.grpc, "rows", "--output-dir=out"]
    assert infer(*arguments, "part-0/a.h5", cwd=data).returncode == 0
    before = (data / "out" / "a.h5").read_bytes()
    done = infer(*arguments, "part-1/a.h5", cwd=data)
    assert done.returncode == 35
    said = f"{data}/out/a.h5: has the predictions of {data}/part-0/a.h5; give another output_dir"
    assert said in done.stderr
    assert (data / "out" / "a.h5").read_bytes() == before
    (data / "linked").symlink_to(data / "part-0")
    assert infer(*arguments, "linked/a.h5", cwd=data).returncode == 0  # the same file
    shutil.move(data / "part-0", data / "moved")
    assert infer(*arguments, "moved/a.h5", cwd=data).returncode == 0
    with h5py.File(data / "out" / "a.h5", "r+") as file:
        del file.attrs["input_file"]  # as a version that did not write it
    assert infer(*arguments, "part-1/a.h5", cwd=data).returncode == 0


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
