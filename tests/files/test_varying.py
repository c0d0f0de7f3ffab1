"""Outputs of varying length: every row is what the model gave for it, whatever happens."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import InferenceOptions, Request, infer_file
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import OutputError, ParameterError, RequestError
from tests.helpers import write_model
from tests.stateful import BATCHING

REPOSITORY = Path(__file__).parents[2]
VARYING = ("boxes", "ids", "words")

# As many boxes as the first number of the row says; {0} is the shape that comes before.
BOXES = """
    def answer(self, request):
        x = array(request, "x").ravel()
        n = int(x[0])
        boxes = x[1] + np.arange(4 * n, dtype=np.float32)
        words = np.array([b"w" * i for i in range(n)], dtype=object)
        ids = int(x[1]) + np.arange(n)
        return response(
            boxes=boxes.reshape(*{0}, n, 4), ids=ids.reshape(*{0}, n),
            words=words.reshape(*{0}, n), n=np.full((*{1}, 1), n, np.int64),
        )
"""
# An output whose rows are the columns of the input.
COLUMNS = """
    def answer(self, request):
        return response(y=array(request, "x").T)
"""
COUNTS = [3, 0, 1, 0, 0, 70, 2]


def tensors(before: list[int]) -> dict[str, tuple[str, list[int]]]:
    return {
        "boxes": ("FP32", [*before, -1, 4]),
        "ids": ("INT64", [*before, -1]),
        "words": ("STRING", [*before, -1]),
    }


def write_detector(repository: Path) -> None:
    """Write an ONNX model, without a configuration, that gives the places where x is positive."""
    version = repository / "detector" / "1"
    version.mkdir(parents=True)
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["places"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])
    places = helper.make_tensor_value_info("places", TensorProto.INT64, ["n", 2])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    graph = helper.make_graph(nodes, "detector", [x], [places], [zero])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), version / "model.onnx")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    models = tmp_path_factory.mktemp("models")

    def write(
        name: str, x: list[int], n: list[int], before: list[int], *shapes: str, rows: int = 0
    ) -> None:
        write_model(
            models,
            name,
            BOXES.format(*shapes),
            inputs={"x": ("FP32", x)},
            outputs={**tensors(before), "n": ("INT64", n)},
            max_batch_size=rows,
            config=BATCHING if name == "sequences" else "",
        )

    write("image", [3], [1], [], "()", "()")
    write("one", [3], [1], [1], "(1,)", "()")
    write("batched", [3], [1], [], "(1,)", "(1,)", rows=8)
    write("leading", [-1, 3], [-1, 1], [], "()", "(1,)")
    write("leading_rows", [-1, 3], [-1, 1], [-1], "(1,)", "(1,)")
    write("windows", [2, 3], [1], [], "()", "()")
    write("fixed_windows", [1, 2, 3], [1, 1], [1], "(1,)", "(1,)")
    write("sequences", [3], [1], [], "(1,)", "(1,)", rows=8)
    wrong = {"boxes": ("FP32", [-1, 5]), "ids": ("INT64", [2]), "words": ("STRING", [-1])}
    write_model(
        models,
        "wrong",
        BOXES.format("()", "()"),
        inputs={"x": ("FP32", [3])},
        outputs={**wrong, "n": ("INT64", [1])},
        max_batch_size=0,
    )
    write_model(
        models,
        "columns",
        COLUMNS,
        inputs={"x": ("FP32", [-1, 3])},
        outputs={"y": ("FP32", [3, -1])},
        max_batch_size=0,
    )
    write_detector(models)
    with serve(models, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


def write_rows(file: Path, counts: list[int]) -> Path:
    with h5py.File(file, "w") as opened:
        opened["x"] = np.array([[n, 10 * row, 0] for row, n in enumerate(counts)], np.float32)
        opened["x"].attrs["sample_rate"] = 1.0
    return file


def infer(
    server: TritonInstance,
    model: str,
    file: Path,
    *,
    transport: Any = "auto",
    outputs: Any = None,
    **options: Any,
) -> Path:
    output = file.with_name(f"{model}-{transport}.h5")
    request = Request(
        input_files=(file,),
        output_file=output,
        options=InferenceOptions(
            model_name=model, input_map={"x": "x"}, **{"varying": VARYING, **options}
        ),
        fingerprint="f",
        provenance={},
    )
    with InferenceClient(server.endpoint, model, transport=transport, outputs=outputs) as client:
        infer_file(client, request, lambda *_: None)
    return output


def rows_of(file: h5py.File, name: str) -> list[Any]:
    offsets, values = file[f"{name}/offsets"][...], file[f"{name}/values"]
    return [values[offsets[i] : offsets[i + 1]] for i in range(len(offsets) - 1)]


def check(output: Path, counts: list[int], firsts: list[int] | None = None) -> None:
    firsts = firsts or [10 * row for row in range(len(counts))]
    with h5py.File(output) as file:
        assert file["n"][:, 0].tolist() == counts
        assert file["boxes/values"].shape == (sum(counts), 4)
        assert file["boxes/values"].dtype == np.float32
        assert file["ids/values"].dtype == file["boxes/offsets"].dtype == np.int64
        assert file["boxes"].attrs["layout"] == "row i is values[offsets[i]:offsets[i + 1]]"
        found = zip(*(rows_of(file, name) for name in VARYING), counts, firsts, strict=True)
        for boxes, ids, words, n, first in found:
            assert np.array_equal(boxes, first + np.arange(4 * n).reshape(n, 4))
            assert np.array_equal(ids, first + np.arange(n))
            assert words.tolist() == [b"w" * i for i in range(n)]


@pytest.mark.parametrize("transport", ["grpc", "http", "shm"])
@pytest.mark.parametrize("model", ["image", "one", "batched", "leading", "leading_rows"])
def test_each_row_is_what_the_model_gave(
    server: TritonInstance, tmp_path: Path, model: str, transport: str
) -> None:
    check(infer(server, model, write_rows(tmp_path / "x.h5", COUNTS), transport=transport), COUNTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{model}-{transport}.h5", "x.h5"]


@pytest.mark.parametrize("transport", ["grpc", "http", "shm"])
def test_no_row_has_anything(server: TritonInstance, tmp_path: Path, transport: str) -> None:
    counts = [0] * 5
    file = write_rows(tmp_path / "x.h5", counts)
    check(infer(server, "image", file, transport=transport), counts)


def test_a_detector_in_onnx_needs_no_configuration(server: TritonInstance, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((30, 1, 6)).astype(np.float32) - 1
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
    with h5py.File(infer(server, "detector", tmp_path / "x.h5", varying=("places",))) as file:
        found = rows_of(file, "places")
        assert min(map(len, found)) == 0
        for row, places in zip(x, found, strict=True):
            assert np.array_equal(places, np.argwhere(row > 0))


def test_windows_are_rows_too(server: TritonInstance, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.array([[2, 5, 0, 0, 7, 0, 3, 9, 0], [0] * 9], np.float32)
    for model in ("windows", "fixed_windows"):
        output = infer(server, model, tmp_path / "x.h5", window="3", sample_rate=2.0)
        check(output, [2, 0, 3], [5, 7, 9])
        with h5py.File(output) as opened:
            assert opened["boxes"].attrs["window"] == 3
            assert opened["boxes"].attrs["sample_rate"] == pytest.approx(2 / 3)


def test_sequences_are_written_in_order(server: TritonInstance, tmp_path: Path) -> None:
    counts = [row * 7 % 5 for row in range(40)]
    file = write_rows(tmp_path / "x.h5", counts)
    check(infer(server, "sequences", file, rows_per_sequence=7), counts)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("image", {"varying": ()}, OutputError, r"name it in varying \(--varying boxes\)"),
        ("image", {"varying": ("n",)}, ParameterError, r"is \(1,\), with 0 free lengths"),
        ("image", {"outputs": ["n"]}, ParameterError, "varying: 'boxes' is not one of .* kept: n"),
        ("batched", {"batch_size": 2}, ParameterError, "want requests of one row"),
        ("leading", {"varying": (), "batch_size": 3}, RequestError, r"name it in varying \(--vary"),
        (
            "wrong",
            {"varying": ("boxes", "words")},
            RequestError,
            r"'boxes' has shape \(1, 4\) for one row, and \(any, 5\) was announced",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    server: TritonInstance,
    tmp_path: Path,
    model: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    file = write_rows(tmp_path / "x.h5", [1, 2, 0])
    with pytest.raises(error, match=message):
        infer(server, model, file, **options)
    assert not (tmp_path / f"{model}-auto.h5").exists()


def test_outputs_of_one_shape_stay_datasets_of_rows(server: TritonInstance, tmp_path: Path) -> None:
    """A free length that is always the same needs no word, and is stored as it always was."""
    output = infer(server, "image", write_rows(tmp_path / "x.h5", [2] * 4), varying=())
    with h5py.File(output) as file:
        assert file["boxes"].shape == (4, 2, 4)
        assert file["words"].shape == (4, 2)


@pytest.mark.parametrize(
    ("n_rows", "message"), [(3, r"begins with 3 for any number of rows"), (4, "for 4 rows")]
)
def test_columns_are_not_taken_for_rows(
    server: TritonInstance, tmp_path: Path, n_rows: int, message: str
) -> None:
    """Also where there are, by chance, as many rows as columns."""
    file = write_rows(tmp_path / "x.h5", [1] * n_rows)
    with pytest.raises(RequestError, match=message):
        infer(server, "columns", file, varying=())


# Kills itself in row N, with a checkpoint before.
KILLED = """
import os, signal, sys
from pathlib import Path
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import InferenceOptions, Request, infer_file, _writer

_writer.CHECKPOINT_S = 0.0
directory, address = Path(sys.argv[1]), sys.argv[2]


def show(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)


request = Request(
    input_files=(directory / "x.h5",), output_file=directory / "image-auto.h5",
    options=InferenceOptions(
        model_name="image", input_map={"x": "x"}, varying=("boxes", "ids")
    ),
    fingerprint="f", provenance={},
)
with InferenceClient(address, "image", outputs=["boxes", "ids", "n"]) as client:
    infer_file(client, request, show)
"""


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    server: TritonInstance, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"varying": ("boxes", "ids"), "outputs": ["boxes", "ids", "n"]}
    file = write_rows(tmp_path / "x.h5", COUNTS)
    found = []
    for killed in (False, True):
        if killed:
            code = [sys.executable, "-c", KILLED, str(tmp_path), server.endpoint.grpc]
            assert subprocess.run(code, check=False).returncode == -signal.SIGKILL
            assert (tmp_path / "image-auto.h5.partial.values").is_dir()
        output = infer(server, "image", file, **options)
        with h5py.File(output) as opened:
            assert opened.attrs["resumed_at_row"] == (5 if killed else 0)
            paths = [f"{name}/{part}" for name in VARYING[:2] for part in ("offsets", "values")]
            found.append({path: opened[path][...].tobytes() for path in [*paths, "n"]})
        output.unlink()
    assert found[0] == found[1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_the_command_has_it_and_the_documentation_reads_it_back(
    server: TritonInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "x.h5", COUNTS)
    options = ["--output-dir=out", "--varying=boxes,ids", "--varying=words"]
    arguments = [server.endpoint.grpc, "image", "x.h5", *options]
    done = subprocess.run(
        [sys.executable, "-m", "hermes", "infer", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path / "out" / "x.h5", COUNTS)
    with h5py.File(tmp_path / "out" / "x.h5") as file:
        assert '"varying": ["boxes", "ids", "words"]' in file.attrs["options"]
    (tmp_path / "out" / "x.h5").rename(tmp_path / "predictions.h5")
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / "streaming.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if "offsets" in block]
    assert len(block.splitlines()) == 2
    names: dict[str, Any] = {"h5py": h5py, "i": 5}
    exec(block, names)  # noqa: S102 (our own documentation)
    names["boxes"].file.close()
    assert np.array_equal(names["row"], 50 + np.arange(280).reshape(70, 4))
