"""Files appear whole or not at all, as the umask has it, and a full disk is an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes._files import Partial, write_whole
from hermes.aeriel.files import OutputFile, PredictionWriter, VaryingOutput
from hermes.aeriel.validation import Part, merge
from hermes.errors import OutputError

REPOSITORY = Path(__file__).parents[2]
PRELUDE = "from tests.files.test_writing import *\n"
ROWS = np.arange(6000, dtype=np.float32).reshape(2000, 3)


def predict(file: Path, extra: str = "rows") -> None:
    outputs = {"y": ROWS}
    varying = {}
    if extra == "words":
        outputs["word"] = np.array([b"word %d" % row for row in range(len(ROWS))], dtype=object)
    elif extra == "boxes":
        outputs["box"] = ROWS[:, :, np.newaxis]
        varying["box"] = VaryingOutput(dtype=ROWS.dtype, shape=(1,), n_leading=0)
    with PredictionWriter(file, rows=len(ROWS), fingerprint="a", varying=varying) as writer:
        for at in range(0, len(ROWS), 500):
            writer.write({name: array[at : at + 500] for name, array in outputs.items()}, at)
        writer.finish({"parameters": 3000 * "x"})


def merge_one(predictions: Path, output: Path, *, killed: bool = False) -> None:
    merge(
        [Part(input_files=(predictions,), predictions=predictions, rows=len(ROWS))],
        output,
        target="y",
        fingerprint="a",
        attributes={},
        on_progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL) if killed else None,
    )


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int) -> None:
    predict(tmp_path / "p.h5")
    merge_one(tmp_path / "p.h5", tmp_path / "merged.h5")
    write_whole(tmp_path / "report.json", "{}")
    with PredictionWriter(tmp_path / "q.h5", rows=9, fingerprint="a"):
        pass
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(
        ["merged.h5", "p.h5", "q.h5.partial", "report.json"], 0o666 & ~umask
    )


def test_a_private_file_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    write_whole(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key").read_bytes() == b"secret"


def test_what_a_killed_merge_leaves_is_gone_after_the_next(tmp_path: Path) -> None:
    predict(tmp_path / "p.h5")
    for _ in range(3):
        code = "merge_one(Path(sys.argv[1], 'p.h5'), Path(sys.argv[1], 'merged.h5'), killed=True)"
        assert python(code, tmp_path).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    merge_one(tmp_path / "p.h5", tmp_path / "merged.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged.h5", "p.h5"]
    with h5py.File(tmp_path / "merged.h5") as merged:
        assert np.array_equal(merged["y"], ROWS)


def test_two_merges_at_once_do_not_destroy_each_other(tmp_path: Path) -> None:
    predict(tmp_path / "p.h5")
    part = Part(input_files=(tmp_path / "p.h5",), predictions=tmp_path / "p.h5", rows=len(ROWS))
    seen = []

    def second(done: int, total: int) -> None:
        with pytest.raises(OutputError, match="another process is writing it"):
            merge_one(tmp_path / "p.h5", tmp_path / "merged.h5")
        seen.append(done)

    merge(
        [part], tmp_path / "merged.h5",
        target=None, fingerprint="a", attributes={}, on_progress=second,
    )  # fmt: skip
    assert seen == [len(ROWS)]
    with h5py.File(tmp_path / "merged.h5") as merged:
        assert np.array_equal(merged["y"], ROWS)


def test_a_second_writer_does_not_destroy_what_the_first_has_written(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p.h5", rows=len(ROWS), fingerprint="a") as writer:
        writer.write({"y": ROWS[:1000]}, 0)
        done = python("predict(Path(sys.argv[1]))", tmp_path / "p.h5")
        assert "another process is writing it" in done.stderr
        writer.write({"y": ROWS[1000:]}, 1000)
        writer.finish({})
    with h5py.File(tmp_path / "p.h5") as opened:
        assert np.array_equal(opened["y"], ROWS)


@pytest.mark.parametrize("leftover", ["file", "pipe", "link"])
def test_what_is_in_the_way_is_replaced_or_refused(tmp_path: Path, leftover: str) -> None:
    partial = tmp_path / ".a.partial"
    if leftover == "file":
        partial.write_text("of a process that was killed")
    elif leftover == "pipe":
        os.mkfifo(partial)
    else:
        (tmp_path / "other").write_text("somebody's")
        partial.symlink_to(tmp_path / "other")
        with pytest.raises(OutputError, match="symbolic link"):
            write_whole(tmp_path / "a", "text")
        assert (tmp_path / "other").read_text() == "somebody's"
        return
    write_whole(tmp_path / "a", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "text"


def test_a_text_waits_for_another_writer(tmp_path: Path) -> None:
    code = """
for number in range(100):
    write_whole(Path(sys.argv[1]), 1000 * sys.argv[2])
    assert set(Path(sys.argv[1]).read_text()) in ({"a"}, {"b"})
"""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, tmp_path / "t", "a"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "."},
    ) as other:
        done = python(code, tmp_path / "t", "b")
        assert done.returncode == 0, done.stderr
        assert other.wait(60) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_an_unlocked_partial_can_be_locked_though_a_child_has_it_open(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "a", keep=True)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        partial.close()
        Partial(tmp_path / "a", keep=True).discard()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# Every size in turn, each in a child, since HDF5 would crash it: its exit status, and what it left.
SIZES = """
import resource
for size in range(4096, 400_000, 8192):
    directory = Path(sys.argv[1], str(size))
    directory.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        try:
            if sys.argv[3] == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            predict(directory / "p.h5", sys.argv[2])
            merge_one(directory / "p.h5", directory / "merged.h5")
        except OutputError:
            os._exit(3)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(4)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(size, os.waitstatus_to_exitcode(status), *sorted(os.listdir(directory)))
"""


def check_every_size(directory: Path, outputs: str, limit: str) -> None:
    done = python(SIZES, directory, outputs, limit)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[1] for line in lines} == {"3", "0"}, done.stdout + done.stderr
    assert len(lines) == 49
    for size, code, *left in lines:
        assert ("merged.h5" in left) == (code == "0"), size
        partial = {"p.h5.partial", "p.h5.partial.json", "p.h5.partial.values"}
        assert set(left) <= {"merged.h5", "p.h5", *partial}
        for name in {"merged.h5", "p.h5"} & set(left):
            with h5py.File(directory / size / name) as opened:
                assert np.array_equal(opened["y"], ROWS)
                if outputs == "boxes":
                    assert np.array_equal(opened["box/values"], ROWS.reshape(-1, 1))


@pytest.mark.parametrize("outputs", ["rows", "words", "boxes"])
def test_a_limit_for_files_is_an_error_at_every_size(tmp_path: Path, outputs: str) -> None:
    check_every_size(tmp_path, outputs, "limit")


@pytest.mark.root
@pytest.mark.parametrize("outputs", ["rows", "words", "boxes"])
def test_a_full_disk_is_an_error_at_every_size(tmp_path: Path, outputs: str) -> None:
    disks = {size: tmp_path / str(size) for size in range(4096, 400_000, 8192)}
    try:
        for size, disk in disks.items():
            disk.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={2 * size}", "tmpfs", str(disk)]
            subprocess.run(command, check=True)
        check_every_size(tmp_path, outputs, "disk")
    finally:
        for disk in disks.values():
            subprocess.run(["umount", "--lazy", str(disk)], check=False)


def test_a_write_that_failed_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    code = """
import resource
from hermes.aeriel.files import _writer
_writer.CHECKPOINT_S = 0.0
try:
    with PredictionWriter(Path(sys.argv[1]), rows=2000, fingerprint="a") as writer:
        writer.write({"y": ROWS[:500]}, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        writer.write({"y": ROWS[500:1000]}, 500)
except OutputError as error:
    print(error)
"""
    done = python(code, tmp_path / "p.h5")
    assert "cannot be written" in done.stdout, done.stderr
    with PredictionWriter(tmp_path / "p.h5", rows=2000, fingerprint="a") as writer:
        assert writer.rows_done == 500
        writer.write({"y": ROWS[500:]}, 500)
        writer.finish({})
    with h5py.File(tmp_path / "p.h5") as opened:
        assert np.array_equal(opened["y"], ROWS)


def test_threads_write_files_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        OutputFile(tmp_path / f"{number}.h5").create().discard()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(200)))
