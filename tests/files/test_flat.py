"""Rows of varying length are written, resumed and merged as flat values with offsets."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.client import ModelSpecification, TensorSpecification
from hermes.aeriel.files import RowPlan, VaryingOutput, fingerprint_of
from hermes.aeriel.files._predictions import PredictionWriter
from hermes.aeriel.files._varying import varying_outputs
from hermes.aeriel.validation import Part, _merge, merge
from hermes.errors import DataError, OutputError, ParameterError

REPOSITORY = Path(__file__).parents[2]
ROWS = 40
BOXES = VaryingOutput(dtype=np.dtype(np.float32), shape=(4,), n_leading=0)
IDS = VaryingOutput(dtype=np.dtype(np.int64), shape=(), n_leading=0)
WORDS = VaryingOutput(dtype=np.dtype(object), shape=(), n_leading=0)
VARYING = {"boxes": BOXES, "a/b": IDS}


def outputs_of(row: int) -> dict[str, Any]:
    n = row * 7 % 5
    return {
        "boxes": np.arange(4 * n, dtype=np.float32).reshape(1, n, 4) + row,
        "a/b": np.arange(3 - n % 3).reshape(1, -1) * row,
        "y": np.full((1, 2), row, np.float32),
    }


def write_rows(writer: PredictionWriter, until: int) -> None:
    for row in range(writer.rows_done, until):
        writer.write(outputs_of(row), row)


def write(file: Path, **options: Any) -> None:
    options = {"rows": ROWS, "fingerprint": "a", "varying": VARYING, **options}
    with PredictionWriter(file, **options) as writer:
        write_rows(writer, ROWS)
        writer.finish({})


def contents(file: Path) -> dict[str, tuple[Any, ...]]:
    """Return dtype, shape, and the bytes of each dataset as they lie in the file."""
    found = {}

    def look(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found[name] = entry.dtype, entry.shape, entry[...].tobytes()
            assert entry.chunks is None

    with h5py.File(file) as opened:
        opened.visititems(look)
    return found


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "y.h5"


def test_offsets_lie_beside_values(output: Path) -> None:
    write(output)
    with h5py.File(output) as file:
        assert set(file) == {"boxes", "a%2Fb", "y"}
        for name, group in (("boxes", "boxes"), ("a/b", "a%2Fb")):
            offsets, values = file[f"{group}/offsets"][...], file[f"{group}/values"]
            assert offsets.dtype == np.int64
            assert len(offsets) == ROWS + 1
            assert offsets[-1] == len(values)
            for row in range(ROWS):
                wanted = outputs_of(row)[name][0]
                assert np.array_equal(values[offsets[row] : offsets[row + 1]], wanted)
        assert file["y"].shape == (ROWS, 2)
    assert [path.name for path in output.parent.iterdir()] == ["y.h5"]


def test_layout_is_the_same_whatever_the_rows_are(output: Path) -> None:
    """Rows of one length, and none that has anything, make the same datasets as any others."""
    for n in (0, 3):
        with PredictionWriter(
            output, rows=5, fingerprint=str(n), varying={"boxes": BOXES, "w": WORDS}
        ) as writer:
            for row in range(5):
                words = np.full((1, n), b"x", object)
                writer.write({"boxes": np.ones((1, n, 4), np.float32), "w": words}, row)
            writer.finish({})
        with h5py.File(output) as file:
            assert file["boxes/values"].shape == (5 * n, 4)
            assert file["boxes/values"].dtype == np.float32
            assert h5py.check_string_dtype(file["w/values"].dtype) is not None
            assert file["w/values"].shape == (5 * n,)
            assert file["w/offsets"][...].tolist() == [n * row for row in range(6)]


def test_strings_of_any_bytes_are_kept(output: Path) -> None:
    words = [[b"one", b"", b"\xff\0\xfe"], [], [b"long" * 100_000], [b"z"] * 3000]
    with PredictionWriter(output, rows=4, fingerprint="a", varying={"w": WORDS}) as writer:
        for row, some in enumerate(words):
            array = np.empty((1, len(some)), object)
            array[0] = some
            writer.write({"w": array}, row)
        writer.finish({})
    with h5py.File(output) as file:
        offsets, values = file["w/offsets"][...], file["w/values"]
        found = [values[begin:end] for begin, end in itertools.pairwise(offsets)]
        assert [[bytes(value) for value in row] for row in found] == words


def test_items_may_have_a_length_of_0(output: Path) -> None:
    nothing = VaryingOutput(dtype=np.dtype(np.float32), shape=(0,), n_leading=0)
    with PredictionWriter(output, rows=3, fingerprint="a", varying={"y": nothing}) as writer:
        for row in range(3):
            writer.write({"y": np.zeros((1, row, 0), np.float32)}, row)
        writer.finish({})
    part = Part(input_files=(output,), predictions=output, rows=3)
    run([part, part], output.with_name("merged.h5"))
    with h5py.File(output.with_name("merged.h5")) as file:
        assert file["y/values"].shape == (6, 0)
        assert file["y/offsets"][...].tolist() == [0, 0, 1, 3, 3, 4, 6]


# Kills itself: in row N, or at the Nth write of values when all rows are there.
KILLED = """
import os, signal, sys
from pathlib import Path
from hermes.aeriel.files import _predictions, _value_files, _writer
from tests.files.test_flat import ROWS, VARYING, write_rows

_writer.CHECKPOINT_S = 0.0
_value_files.BLOCK_BYTES = 64
file, where, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


class Writer(_predictions.PredictionWriter):
    def write(self, outputs, at):
        if where == "row" and at == number:
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(outputs, at)


class Files(_value_files.ValueFiles):
    def blocks(self, name):
        for index, block in enumerate(super().blocks(name)):
            if where == "values" and index == number and name == "boxes":
                os.kill(os.getpid(), signal.SIGKILL)
            yield block

    def remove(self):
        super().remove()
        if where == "end" and self._ends and any(n for n, _ in self._ends.values()):
            os.kill(os.getpid(), signal.SIGKILL)


_writer.ValueFiles = Files
with Writer(file, rows=ROWS, fingerprint="a", varying=VARYING) as writer:
    write_rows(writer, ROWS)
    writer.finish({})
"""


@pytest.mark.parametrize(
    ("where", "number", "resumed_at"),
    [("row", 0, 0), ("row", 17, 17), ("values", 0, ROWS), ("values", 9, ROWS), ("end", 0, 0)],
)
def test_a_kill_changes_no_byte(
    output: Path, tmp_path: Path, where: str, number: int, resumed_at: int
) -> None:
    write(tmp_path / "whole.h5")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(output), where, str(number)],
        cwd=REPOSITORY,
        check=False,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    with PredictionWriter(output, rows=ROWS, fingerprint="a", varying=VARYING) as writer:
        assert writer.rows_done == resumed_at
        write_rows(writer, ROWS)
        writer.finish({})
    assert contents(output) == contents(tmp_path / "whole.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.h5", "y.h5"]


def interrupt(
    output: Path, write_some: Callable[[PredictionWriter, int], None] = write_rows
) -> None:
    def run() -> None:
        with PredictionWriter(output, rows=ROWS, fingerprint="a", varying=VARYING) as writer:
            write_some(writer, 20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()


@pytest.mark.parametrize("damage", ["short", "missing", "no directory"])
def test_it_starts_afresh_where_values_are_missing(output: Path, damage: str) -> None:
    interrupt(output)
    values = output.with_name("y.h5.partial.values")
    if damage == "short":
        os.truncate(values / "0", 10)
    else:
        for file in list(values.iterdir())[: 1 if damage == "missing" else None]:
            file.unlink()
        if damage == "no directory":
            values.rmdir()
    with PredictionWriter(output, rows=ROWS, fingerprint="a", varying=VARYING) as writer:
        assert writer.rows_done == 0
        write_rows(writer, ROWS)
        writer.finish({})
    whole = output.with_name("whole.h5")
    write(whole)
    assert contents(output) == contents(whole)


def test_what_was_begun_otherwise_leaves_nothing(output: Path) -> None:
    interrupt(output)
    with PredictionWriter(output, rows=5, fingerprint="b") as writer:
        assert writer.rows_done == 0
        writer.write({"y": np.zeros((5, 2))}, 0)
        writer.finish({})
    assert [path.name for path in output.parent.iterdir()] == ["y.h5"]
    assert fingerprint_of(output) == "b"


def test_values_that_are_not_finite_are_counted_once(output: Path) -> None:
    def rows(writer: PredictionWriter, until: int) -> None:
        for row in range(writer.rows_done, until):
            outputs = outputs_of(row)
            if outputs["boxes"].size:
                outputs["boxes"][0, 0, :2] = np.nan, np.inf
            writer.write(outputs, row)

    wanted = 2 * sum(outputs_of(row)["boxes"].size > 0 for row in range(ROWS))
    interrupt(output, rows)
    with PredictionWriter(output, rows=ROWS, fingerprint="a", varying=VARYING) as writer:
        assert writer.rows_done == 20
        rows(writer, ROWS)
        writer.finish({})
    with h5py.File(output) as file:
        assert json.loads(file.attrs["not_finite_outputs"])["boxes"] == wanted
    with PredictionWriter(
        output, rows=ROWS, fingerprint="c", varying=VARYING, finite=True
    ) as writer:
        rows(writer, ROWS)
        with pytest.raises(OutputError, match="not finite"):
            writer.finish({})


def test_rows_of_varying_length_come_in_order(output: Path) -> None:
    with PredictionWriter(output, rows=ROWS, fingerprint="a", varying=VARYING) as writer:
        write_rows(writer, 3)
        with pytest.raises(ValueError, match="row 3 comes next, not row 5"):
            writer.write(outputs_of(5), 5)


def test_rows_of_other_lengths_are_refused_with_a_word_on_how_to_have_them(output: Path) -> None:
    with PredictionWriter(output, rows=ROWS, fingerprint="a") as writer:
        writer.write({"boxes": np.zeros((1, 3, 4))}, 0)
        with pytest.raises(OutputError) as error:
            writer.write({"boxes": np.zeros((1, 2, 4))}, 1)
    assert str(error.value).endswith(
        "output 'boxes' is float64 of shape (2, 4) in row 1, but float64 of shape (3, 4) in the "
        "rows before; they have to agree; where its rows have different lengths, name it in "
        "varying (--varying boxes)"
    )


def part(directory: Path, name: str, **options: Any) -> Part:
    write(directory / name, **options)
    return Part(input_files=(directory / name,), predictions=directory / name, rows=ROWS)


def run(parts: list[Part], output: Path) -> None:
    merge(parts, output, target=None, fingerprint="m", attributes={}, on_progress=lambda *_: None)


@pytest.mark.parametrize("block_bytes", [8, 100, 1 << 20])
def test_a_merged_file_has_the_rows_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(_merge, "BLOCK_BYTES", block_bytes)
    run([part(tmp_path, name) for name in "abc"], tmp_path / "merged.h5")
    with h5py.File(tmp_path / "merged.h5") as file, h5py.File(tmp_path / "a") as one:
        for name in ("boxes", "a%2Fb"):
            offsets, values = file[f"{name}/offsets"], file[f"{name}/values"]
            n = one[f"{name}/offsets"][-1]
            first = one[f"{name}/offsets"][...]
            assert np.array_equal(offsets, [*first, *(first[1:] + n), *(first[1:] + 2 * n)])
            assert np.array_equal(values, np.concatenate(3 * [one[f"{name}/values"]]))
            assert file[name].attrs["layout"] == one[name].attrs["layout"]
        assert list(file["index/offsets"]) == [0, 40, 80, 120]


def empty_rows(file: Path, words: list[bytes]) -> Part:
    with PredictionWriter(
        file, rows=2, fingerprint="a", varying={"boxes": BOXES, "w": WORDS}
    ) as writer:
        for row in range(2):
            array = np.array([words], object).reshape(1, -1)
            writer.write({"boxes": np.zeros((1, 0, 4), np.float32), "w": array}, row)
        writer.finish({})
    return Part(input_files=(file,), predictions=file, rows=2)


def test_files_without_anything_are_merged(tmp_path: Path) -> None:
    contents = [[], [b"a", b"b\0c"], []]
    parts = [empty_rows(tmp_path / str(i), words) for i, words in enumerate(contents)]
    run(parts, tmp_path / "merged.h5")
    with h5py.File(tmp_path / "merged.h5") as file:
        assert file["boxes/values"].shape == (0, 4)
        assert file["boxes/offsets"][...].tolist() == [0] * 7
        assert [bytes(value) for value in file["w/values"]] == 2 * [b"a", b"b\0c"]
        assert file["w/offsets"][...].tolist() == [0, 0, 0, 2, 4, 4, 4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.__delitem__("y"), r"has the outputs \['a%2Fb', 'boxes'\], but the"),
        (lambda file: file["boxes"].__delitem__("values"), "not 40 rows of varying length"),
        (lambda file: file["boxes/offsets"].write_direct(np.zeros(41, int)), "not 40 rows of"),
    ],
)
def test_parts_that_differ_are_refused(
    tmp_path: Path, damage: Callable[[Any], None], message: str
) -> None:
    parts = [part(tmp_path, name) for name in "ab"]
    with h5py.File(tmp_path / "b", "a") as file:
        damage(file)
    with pytest.raises(DataError, match=f"{tmp_path / 'b'}.*{message}"):
        run(parts, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


@pytest.mark.parametrize("first", ["rows", "varying"])
def test_an_output_is_of_varying_length_in_all_parts_or_none(tmp_path: Path, first: str) -> None:
    with PredictionWriter(tmp_path / "rows", rows=ROWS, fingerprint="a") as writer:
        row = {"boxes": np.zeros((ROWS, 4)), "a/b": np.zeros(ROWS), "y": np.zeros((ROWS, 2))}
        writer.write(row, 0)
        writer.finish({})
    parts = {
        "varying": part(tmp_path, "varying"),
        "rows": Part(input_files=(tmp_path,), predictions=tmp_path / "rows", rows=ROWS),
    }
    both = [parts[first], *(one for name, one in parts.items() if name != first)]
    with pytest.raises(DataError, match="of varying length"):
        run(both, tmp_path / "merged.h5")


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_merge, "BLOCK_BYTES", 1 << 20)
    block = np.ones((1, 1 << 16, 4), np.float32)  # 1 MiB
    tracemalloc.start()
    parts = []
    for name in "ab":
        with PredictionWriter(
            tmp_path / name, rows=24, fingerprint="a", varying={"boxes": BOXES}
        ) as writer:
            for row in range(24):
                writer.write({"boxes": block}, row)
            writer.finish({})
        parts.append(Part(input_files=(tmp_path,), predictions=tmp_path / name, rows=24))
    run(parts, tmp_path / "merged.h5")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 << 20
    with h5py.File(tmp_path / "merged.h5") as file:
        assert file["boxes/values"].shape == (48 << 16, 4)


def model(shape: tuple[int, ...], *, x: tuple[int, ...] = (3,), rows: int = 0) -> Any:
    def tensor(name: str, shape: tuple[int, ...]) -> TensorSpecification:
        return TensorSpecification(name=name, datatype="BF16", shape=shape)

    return ModelSpecification(
        name="m",
        version="1",
        platform="",
        inputs={"x": tensor("x", x)},
        outputs={"boxes": tensor("boxes", shape), "n": tensor("n", (1,))},
        max_batch_size=rows,
    )


@pytest.mark.parametrize(
    ("described", "shape", "n_leading"),
    [
        (model((-1, 4)), (4,), 0),
        (model((-1,)), (), 0),
        (model((1, 1, -1, 4)), (4,), 2),
        (model((-1, 2, 4), rows=8), (2, 4), 1),
        (model((1, -1, 4), rows=8), (4,), 2),
        (model((-1, 6), x=(-1, 3)), (6,), 0),
        (model((-1, -1, 6), x=(-1, 3)), (6,), 1),
        (model((-1, 1, -1), x=(-1, 3)), (), 2),
    ],
)
def test_the_model_says_what_a_row_is(
    described: ModelSpecification, shape: tuple[int, ...], n_leading: int
) -> None:
    plan = RowPlan.of(described, 0, varying=["boxes"])
    wanted = VaryingOutput(dtype=np.dtype(np.float32), shape=shape, n_leading=n_leading)
    assert plan.varying == {"boxes": wanted}
    assert plan.rows_per_request == 1


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (model((100, 4)), r"is \(100, 4\), with 0 free lengths in a row; write -1 for the one"),
        (model((-1, -1)), r"is \(any, any\), with 2 free lengths"),
        (model((-1, -1, -1), x=(-1, 3)), r"is \(any, any, any\), with 2 free lengths"),
        (model((-1, -1, 4), rows=8), r"with 2 free lengths"),
        (model((84, -1)), r"is \(84, any\); the length that varies has to come first in a row"),
    ],
)
def test_what_the_model_does_not_say_is_refused(
    described: ModelSpecification, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        RowPlan.of(described, 0, varying=["boxes"])


def test_outputs_that_are_not_there_are_refused() -> None:
    with pytest.raises(ParameterError, match="'box' is not one of the outputs of model 'm': boxes"):
        varying_outputs(model((-1, 4)), ["box"])
    with pytest.raises(ParameterError, match="'boxes' is not one of the outputs that are kept: n"):
        varying_outputs(model((-1, 4)), ["boxes"], kept=["n"])
    with pytest.raises(ParameterError, match="batch_size: 2 rows, which have one length"):
        RowPlan.of(model((-1, 4), rows=8), 2, varying=["boxes"])
