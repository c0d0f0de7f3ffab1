"""Several versions of the same rows, sent side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import Hooks, Rows, _preprocessed
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import HookError, ParameterError
from tests.files.runs import Arrays, datasets, infer, write_models
from tests.helpers import write_model
from tests.stateful import BATCHING, RUNNING_SUM, write_implicit_model

N_ROWS = 200
BOTH = ("background", "injected")
OPTIONS: dict[str, dict[str, Any]] = {
    "rows": {"batch_size": 3},
    "windows": {"input_map": {"x": "s"}, "window": "8", "stride": "2"},
    "sums": {"rows_per_sequence": 60},
    "implicit": {"input_map": {"x": "one"}, "rows_per_sequence": 60},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    repository = write_models(tmp_path_factory.mktemp("models"))
    single = BATCHING.replace("max_candidate_sequences: 3", "max_candidate_sequences: 1")
    write_model(repository, "single", RUNNING_SUM, inputs={"x": ("FP32", [3])}, config=single)
    write_implicit_model(repository, "implicit")
    with serve(repository, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "in.h5", "w") as opened:
        opened["x"] = rng.standard_normal((N_ROWS, 3)).astype(np.float32)
        opened["one"] = rng.standard_normal((N_ROWS, 1)).astype(np.float32)
        opened["s"] = rng.standard_normal((2, 2 * N_ROWS + 6)).astype(np.float32)
        opened["s"].attrs["sample_rate"] = 4.0
    return tmp_path / "in.h5"


def run(server: TritonInstance, file: Path, model: str, hooks: Hooks, **options: Any) -> Arrays:
    given = {"input_map": {"x": "x"}, **OPTIONS.get(model, {}), **options}
    return datasets(infer(server, file, hooks, model_name=model, **given))


def injected(inputs: Arrays, rows: Rows) -> Arrays:
    x = inputs["x"].copy()
    x[rows.numbers % 7 == 3] += np.float32(2.5)
    return {"x": x}


def both(inputs: Arrays, rows: Rows) -> dict[str, Arrays]:
    return {"background": inputs, "injected": injected(inputs, rows)}


@pytest.mark.parametrize("model", OPTIONS)
@pytest.mark.parametrize("block_bytes", [500, 4 << 20])
def test_variants_are_what_two_runs_give(
    server: TritonInstance,
    file: Path,
    model: str,
    block_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_preprocessed, "BLOCK_BYTES", block_bytes)
    calls: list[int] = []

    def preprocess(inputs: Arrays, rows: Rows) -> dict[str, Arrays]:
        calls.extend(rows.numbers.tolist())
        return both(inputs, rows)

    found = run(server, file, model, Hooks(preprocess=preprocess, variants=BOTH))
    assert found.keys() == {"background.y", "injected.y"}
    assert calls == list(range(N_ROWS))
    hooks: dict[str, Callable[..., Any]] = {"background": lambda i, _: i, "injected": injected}
    for name, hook in hooks.items():
        alone = run(server, file, model, Hooks(preprocess=hook))["y"]
        assert found[f"{name}.y"].tobytes() == alone.tobytes()
        assert len(alone) == N_ROWS


def test_a_postprocess_has_the_outputs_of_all_variants(server: TritonInstance, file: Path) -> None:
    def postprocess(outputs: Arrays, rows: Rows) -> tuple[Arrays, Rows]:
        gain = outputs["injected.y"][:, 0] - outputs["background.y"][:, 0]
        return {"gain": gain[gain > 0]}, rows[gain > 0]

    hooks = Hooks(preprocess=both, postprocess=postprocess, variants=BOTH)
    found = run(server, file, "rows", hooks)
    assert found["index/row"].tolist() == list(range(3, N_ROWS, 7))
    np.testing.assert_allclose(found["gain"], 5)


def test_rows_are_kept_by_a_variant(server: TritonInstance, file: Path) -> None:
    hooks = Hooks(preprocess=both, variants=BOTH)
    plain = run(server, file, "rows", hooks)
    found = run(server, file, "rows", hooks, keep="injected.y[1] > 3")
    (kept,) = np.nonzero(plain["injected.y"][:, 1] > 3)
    np.testing.assert_array_equal(found["index/row"], kept)
    np.testing.assert_array_equal(found["background.y"], plain["background.y"][kept])
    with pytest.raises(ParameterError, match=r"no output 'y', but background\.y, injected\.y"):
        run(server, file, "rows", hooks, keep="y[1] > 3")


def test_sequences_that_are_lost_begin_again(
    server: TritonInstance, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(server, file, "sums", Hooks(preprocess=both, variants=BOTH))
    monkeypatch.setattr(_preprocessed, "BLOCK_BYTES", 120)
    pauses = [2.5]

    def slow(inputs: Arrays, rows: Rows) -> dict[str, Arrays]:
        if 30 in rows.numbers and pauses:
            time.sleep(pauses.pop())  # the server gives both sequences up meanwhile
        return both(inputs, rows)

    found = run(server, file, "sums", Hooks(preprocess=slow, variants=BOTH))
    assert not pauses
    for name, array in wanted.items():
        assert array.tobytes() == found[name].tobytes()
    with h5py.File(file.with_name("out.h5")) as opened:
        assert '"retries": 2' in opened.attrs["statistics"]


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (
            injected,
            r"returned \['x'\], not a dict of inputs for each of \['background', 'injected'",
        ),
        (lambda *_: 3, "returned int, not a dict of inputs"),
        (lambda i, _: {"background": i, "injected": {}}, r"returned \[\]; the model takes \['x'\]"),
    ],
)
def test_what_a_hook_does_wrong_is_said(
    server: TritonInstance, file: Path, hook: Callable[..., Any], words: str
) -> None:
    with pytest.raises(HookError, match=words):
        run(server, file, "rows", Hooks(preprocess=hook, variants=BOTH))


def test_what_cannot_be_is_refused(server: TritonInstance, file: Path) -> None:
    with pytest.raises(ParameterError, match="variants: are made by a preprocess"):
        Hooks(variants=BOTH)
    for names in (("a", "a"), ("a.b", "c"), ("", "c")):
        with pytest.raises(ParameterError, match="are not different names of letters and digits"):
            Hooks(preprocess=both, variants=names)
    with pytest.raises(ParameterError, match=r"2 sequences side by side, .* 'single' keeps 1 at"):
        run(server, file, "single", Hooks(preprocess=both, variants=BOTH))
