"""A run with hooks that was killed goes on to the bytes of one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import (
    Hooks,
    InferenceOptions,
    Request,
    Rows,
    _preprocessed,
    _writer,
    infer_file,
)
from hermes.aeriel.serve import TritonInstance, serve
from tests.files.runs import write_models

REPOSITORY = Path(__file__).parents[2]
N_ROWS = 1000
Arrays = dict[str, NDArray[Any]]
CASES: dict[str, dict[str, Any]] = {
    "rows": {"model_name": "rows", "batch_size": 8, "input_map": {"x": "x"}},
    "sequences": {"model_name": "sums", "rows_per_sequence": 250, "input_map": {"x": "x"}},
    "windows": {"model_name": "windows", "window": "8", "stride": "2", "input_map": {"x": "s"}},
}


def centre(inputs: Arrays, _: Rows) -> Arrays:
    """Depend on the whole block."""
    return {name: (x - x.mean(axis=0)).astype(np.float32) for name, x in inputs.items()}


def loudest(outputs: Arrays, rows: Rows) -> tuple[Arrays, Rows]:
    """Keep the loudest row of each cluster, of which some lie on borders of blocks."""
    values = np.abs(outputs["y"].reshape(len(rows), -1)[:, 0])
    is_peak = values > np.maximum(np.roll(values, 1), np.roll(values, -1))
    return {"y": outputs["y"][is_peak], "mean": np.full(is_peak.sum(), values.mean())}, rows[
        is_peak
    ]


HOOKS: dict[str, dict[str, Any]] = {
    "preprocess": {"preprocess": centre},
    "postprocess": {"postprocess": loudest, "block_rows": 64},
    "both": {"preprocess": centre, "postprocess": loudest, "block_rows": 64},
}


def killed(hook: Callable[..., Any], row: int) -> Callable[..., Any]:
    """Return a hook that kills its process when it gets a row."""

    def kill(arrays: Arrays, rows: Rows) -> Any:
        if row in rows.numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        return hook(arrays, rows)

    return kill


def run(endpoint: str, file: Path, output: Path, case: str, hooks: str, row: int = -1) -> None:
    """Run a case; it is killed when a hook gets a row."""
    # Several blocks, and each of them safe.
    _preprocessed.BLOCK_BYTES = 64 * 24
    _writer.CHECKPOINT_S = 0.0
    given = dict(HOOKS[hooks])
    last = list(given)[-2 if "block_rows" in given else -1]
    given[last] = killed(given[last], row)
    chosen: dict[str, Any] = {**CASES[case], "cast": "preprocess" not in given}
    options = InferenceOptions(**chosen)
    request = Request(
        input_files=(file,),
        output_file=output,
        options=options,
        fingerprint="f",
        provenance={},
        hooks=Hooks(**given),
    )
    with InferenceClient(Endpoint(**json.loads(endpoint)), **options.client()) as client:
        infer_file(client, request, lambda *_: None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    repository = write_models(tmp_path_factory.mktemp("models"))
    with serve(repository, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


@pytest.fixture(autouse=True)
def constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `run` changes."""
    monkeypatch.setattr(_preprocessed, "BLOCK_BYTES", _preprocessed.BLOCK_BYTES)
    monkeypatch.setattr(_writer, "CHECKPOINT_S", _writer.CHECKPOINT_S)


def contents(file: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = {}

    def look(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found[name] = (str(entry.dtype), entry.shape, entry[...].tobytes())

    with h5py.File(file) as opened:
        opened.visititems(look)
    return found


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("case", CASES)
def test_a_kill_changes_no_byte(
    server: TritonInstance, tmp_path: Path, case: str, hooks: str
) -> None:
    file = tmp_path / "in.h5"
    with h5py.File(file, "w") as opened:
        opened["x"] = np.random.default_rng(0).standard_normal((N_ROWS, 3))
        opened["s"] = np.random.default_rng(1).standard_normal((2, 2 * N_ROWS + 6))
    endpoint = json.dumps({"grpc": server.endpoint.grpc, "http": server.endpoint.http})
    run(endpoint, file, tmp_path / "whole.h5", case, hooks)
    program = f"from {__name__} import run; from pathlib import Path; import sys\n"
    program += "e, f, o, c, h = sys.argv[1:]; run(e, Path(f), Path(o), c, h, row=620)"
    done = subprocess.run(
        [sys.executable, "-c", program, endpoint, file, tmp_path / "out.h5", case, hooks],
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.h5").exists()
    run(endpoint, file, tmp_path / "out.h5", case, hooks)
    with h5py.File(tmp_path / "out.h5") as opened:
        assert 0 < opened.attrs["resumed_at_row"] < 620
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "whole.h5")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["in.h5", "out.h5", "whole.h5"]
