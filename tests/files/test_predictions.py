"""A file of predictions is whole or not there, and goes on from its last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import _writer, fingerprint_of
from hermes.aeriel.files._predictions import PredictionWriter
from hermes.errors import OutputError

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


def write_rows(writer: PredictionWriter, until: int) -> None:
    while writer.rows_done < until:
        at = writer.rows_done
        writer.write({"y": ROWS[at : at + 5], "flag": ROWS[at : at + 5, 0] > 10}, at)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "new" / "y.h5"


@pytest.fixture
def checkpoint_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_writer, "CHECKPOINT_S", 0.0)


def test_it_appears_when_the_last_row_is_there(output: Path) -> None:
    with PredictionWriter(output, rows=20, fingerprint="a") as writer:
        write_rows(writer, 15)
        assert not output.exists()
        write_rows(writer, 20)
        assert not output.exists()
        writer.finish({"model": "m", "versions": {"h5py": "3"}})
    with h5py.File(output, "r") as file:
        assert np.array_equal(file["y"], ROWS)
        assert file["flag"].dtype == bool
        assert file.attrs["model"] == "m"
        assert json.loads(file.attrs["versions"]) == {"h5py": "3"}
    assert fingerprint_of(output) == "a"
    assert [path.name for path in output.parent.iterdir()] == ["y.h5"]


def test_files_of_a_run_have_attributes_in_common_and_their_own(tmp_path: Path) -> None:
    for number in range(3):
        shared: dict[str, Any] = {
            "host": "h" if number < 2 else "other",
            "options": {"cast": True},
            "size": 3,
        }
        shared |= {"is_new": True, "share": np.float64(0.5)}
        output = tmp_path / f"{number}.h5"
        with PredictionWriter(
            output, rows=20, fingerprint=f"{number}", attributes=shared
        ) as writer:
            write_rows(writer, 20)
            writer.finish({"rows": number, "user": "ü\udce9"})
    for number in range(3):
        with h5py.File(tmp_path / f"{number}.h5") as file:
            assert file.attrs["host"] == ("h" if number < 2 else "other")
            assert json.loads(file.attrs["options"]) == {"cast": True}
            assert (file.attrs["size"], file.attrs["rows"]) == (3, number)
            assert (file.attrs["is_new"], file.attrs["share"]) == (True, 0.5)
            assert file.attrs["user"] == "ü\udce9"
            assert file.attrs["fingerprint"] == f"{number}"


def test_a_file_that_went_on_says_who_finished_it(output: Path) -> None:
    def run(host: str, until: int) -> None:
        shared = {"host": host, "server": "the same"}
        with PredictionWriter(output, rows=20, fingerprint="a", attributes=shared) as writer:
            write_rows(writer, until)
            if until < 20:
                raise KeyboardInterrupt
            writer.finish({})

    with pytest.raises(KeyboardInterrupt):
        run("first", 10)
    run("second", 20)
    with h5py.File(output) as file:
        assert (file.attrs["host"], file.attrs["server"]) == ("second", "the same")
        assert file.attrs["resumed_at_row"] == 10


def test_it_is_not_finished_early(output: Path) -> None:
    with PredictionWriter(output, rows=20, fingerprint="a") as writer:
        write_rows(writer, 15)
        with pytest.raises(OutputError, match="has 15 of 20 rows"):
            writer.finish({})
    assert not output.exists()


def interrupt(output: Path, fingerprint: str) -> None:
    class InterruptedRunError(Exception):
        pass

    def run() -> None:
        with PredictionWriter(output, rows=20, fingerprint=fingerprint) as writer:
            write_rows(writer, 10)
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        run()


def test_it_goes_on_where_it_was_left(output: Path) -> None:
    interrupt(output, "a")
    with PredictionWriter(output, rows=20, fingerprint="a") as writer:
        assert writer.rows_done == 10
        write_rows(writer, 20)
        writer.finish({})
    with h5py.File(output, "r") as file:
        assert np.array_equal(file["y"], ROWS)
        assert file.attrs["resumed_at_row"] == 10


def test_it_starts_afresh_for_anything_else(output: Path) -> None:
    interrupt(output, "a")
    with PredictionWriter(output, rows=20, fingerprint="b") as writer:
        assert writer.rows_done == 0
        write_rows(writer, 20)
        writer.finish({})
    assert fingerprint_of(output) == "b"


@pytest.mark.parametrize("damage", ["checkpoint", "partial", "both"])
def test_it_starts_afresh_from_damaged_leftovers(output: Path, damage: str) -> None:
    interrupt(output, "a")
    if damage != "partial":
        output.with_name("y.h5.partial.json").write_text("{")
    if damage != "checkpoint":
        output.with_name("y.h5.partial").write_text("no HDF5")
    with PredictionWriter(output, rows=20, fingerprint="a") as writer:
        assert writer.rows_done == 0
        write_rows(writer, 20)
        writer.finish({})
    with h5py.File(output, "r") as file:
        assert np.array_equal(file["y"], ROWS)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from hermes.aeriel.files import _predictions, _writer
from tests.files.test_predictions import ROWS, write_rows

_writer.CHECKPOINT_S = 0.0
with _predictions.PredictionWriter(Path(sys.argv[1]), rows=20, fingerprint="a") as writer:
    write_rows(writer, int(sys.argv[2]))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("rows", [0, 5, 10, 20])
def test_a_kill_loses_nothing_that_was_checkpointed(output: Path, rows: int) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(output), str(rows)],
        cwd=Path(__file__).parents[2],
        check=False,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert killed.returncode == -signal.SIGKILL
    with PredictionWriter(output, rows=20, fingerprint="a") as writer:
        assert writer.rows_done == rows
        write_rows(writer, 20)
        writer.finish({})
    with h5py.File(output, "r") as file:
        assert np.array_equal(file["y"], ROWS)


def test_strings_are_written_but_not_checkpointed(output: Path, checkpoint_at_once: None) -> None:
    words = np.array([b"one", b"two"], dtype=object)
    with PredictionWriter(output, rows=4, fingerprint="a") as writer:
        writer.write({"word": words}, 0)
        writer.write({"word": words}, 2)
        assert not output.with_name("y.h5.partial.json").exists()
        writer.finish({})
    with h5py.File(output, "r") as file:
        assert list(file["word"]) == [b"one", b"two", b"one", b"two"]


def test_nul_bytes_are_kept_beside_strings_that_are_empty(output: Path) -> None:
    words = [b"a\0b", *1200 * [b""], b"c", *1200 * [b""]]
    with PredictionWriter(output, rows=len(words), fingerprint="a") as writer:
        writer.write({"word": np.array(words, object)}, 0)
        writer.finish({})
    with h5py.File(output) as file:
        assert [bytes(word) for word in file["word"]] == words


def test_a_second_writer_is_told(output: Path) -> None:
    with (
        PredictionWriter(output, rows=20, fingerprint="a"),
        pytest.raises(OutputError, match="another process is writing it"),
    ):
        subprocess_writer(output)


def subprocess_writer(output: Path) -> None:
    """Open the file as another process does: HDF5's locks are between processes."""
    code = (
        "import sys, pickle; from pathlib import Path; "
        "from hermes.aeriel.files._predictions import PredictionWriter\n"
        "try: PredictionWriter(Path(sys.argv[1]), rows=20, fingerprint='a')\n"
        "except Exception as error: sys.stdout.buffer.write(pickle.dumps(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(output)],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    import pickle

    raise pickle.loads(done.stdout)  # noqa: S301 (our own)


def test_no_file_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint_of(tmp_path / "none.h5") is None
    (tmp_path / "text.h5").write_text("text")
    assert fingerprint_of(tmp_path / "text.h5") is None
    h5py.File(tmp_path / "other.h5", "w").close()
    assert fingerprint_of(tmp_path / "other.h5") is None
