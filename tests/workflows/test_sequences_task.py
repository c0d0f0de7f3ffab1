"""Models that keep a state through the tasks: sequences that survive their server, and refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hermes.aeriel.supervise import ServerState
from tests.helpers import ECHO, server_pid, wait_until, write_model
from tests.stateful import BATCHING, RUNNING_SUM, write_ensemble
from tests.workflows.conftest import Luigi

# A row takes long enough for a kill to come in the middle.
SLOW = RUNNING_SUM.replace(
    "        if x.max() > 100:", "        time.sleep(0.01)\n        if False:"
)


@pytest.fixture(scope="module")
def stateful_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Running sums, the same as a step of an ensemble, and a model without a state."""
    models = tmp_path_factory.mktemp("models")
    write_model(models, "sum", RUNNING_SUM, config=BATCHING)
    write_model(models, "slow", SLOW, config=BATCHING)
    write_model(models, "echo", ECHO)
    write_ensemble(models, "ensemble", "sum")
    return models


def write_rows(file: Path, rows: int) -> NDArray[np.float32]:
    x = np.random.default_rng(rows).integers(-9, 9, (rows, 1)).astype(np.float32)
    with h5py.File(file, "w") as opened:
        opened["x"] = x
    return x


def read_rows(file: Path) -> NDArray[np.float32]:
    with h5py.File(file) as opened:
        return np.asarray(opened["x"])


def sums(x: NDArray[np.float32], rows: int) -> list[float]:
    parts = [np.cumsum(x[at : at + rows]) for at in range(0, len(x), rows)]
    return [float(total) for total in np.concatenate(parts)]


def command(models: Path, model: str, **parameters: str) -> list[str]:
    return [
        "--module=workflows.validate",
        "Validate",
        f"--model-repository={models}",
        f"--model-name={model}",
        "--inputs=*.h5",
        "--output-dir=out",
        *(f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()),
    ]


def merged(directory: Path) -> list[float]:
    with h5py.File(directory / "out" / "merged.h5") as opened:
        return [float(value) for value in opened["y"][:, 0]]


@pytest.mark.usefixtures("triton_home")
@pytest.mark.parametrize("model", ["sum", "ensemble"])
def test_a_file_is_a_sequence_or_several(
    luigi: Luigi, stateful_models: Path, tmp_path: Path, model: str
) -> None:
    first, second = (write_rows(tmp_path / f"{rows}.h5", rows) for rows in (50, 7))
    for rows_per_sequence in (0, 20):
        run = luigi(
            *command(stateful_models, model, rows_per_sequence=str(rows_per_sequence)),
            "--workers=2",
        )
        assert run.returncode == 0, run.stdout
        length = rows_per_sequence or 50
        assert merged(tmp_path) == sums(first, length) + sums(second, length)


@pytest.fixture
def under_way(stateful_models: Path, tmp_path: Path, state_home: Path) -> Iterator[Popen[str]]:
    """A run over 700 rows in three sequences that has come to its first checkpoint."""
    write_rows(tmp_path / "a.h5", 700)
    arguments = command(stateful_models, "slow", rows_per_sequence="300")
    with Popen(
        [sys.executable, "-m", "luigi", *arguments, "--local-scheduler"],
        cwd=tmp_path,
        env={**os.environ, "HERMES_STATE_HOME": str(state_home)},
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        wait_until((tmp_path / "out" / "predictions" / "a.h5.partial.json").exists, 60)
        yield run


@pytest.mark.usefixtures("triton_home")
def test_sequences_go_on_after_their_server_was_killed(
    under_way: Popen[str], tmp_path: Path, state_home: Path
) -> None:
    [state] = ServerState.all(state_home)
    endpoint = state.endpoint()
    assert endpoint is not None
    os.kill(server_pid(str(endpoint.server_id)), signal.SIGKILL)
    said, _ = under_way.communicate(timeout=120)
    assert under_way.returncode == 0, said
    assert merged(tmp_path) == sums(read_rows(tmp_path / "a.h5"), 300)


@pytest.mark.usefixtures("triton_home")
def test_a_run_that_was_killed_goes_on_in_its_sequence(
    under_way: Popen[str], luigi: Luigi, stateful_models: Path, tmp_path: Path
) -> None:
    os.killpg(under_way.pid, signal.SIGKILL)
    under_way.wait()
    again = luigi(*command(stateful_models, "slow", rows_per_sequence="300"))
    assert again.returncode == 0, again.stdout
    assert merged(tmp_path) == sums(read_rows(tmp_path / "a.h5"), 300)
    with h5py.File(tmp_path / "out" / "predictions" / "a.h5") as opened:
        assert 0 < opened.attrs["resumed_at_row"] < 700
        assert (
            json.loads(opened.attrs["statistics"])["rows"] == 700 - opened.attrs["resumed_at_row"]
        )


@pytest.mark.parametrize(
    ("model", "parameter", "problem"),
    [
        ("echo", "rows_per_sequence", "rows_per_sequence: model 'echo' keeps no state"),
        ("sum", "batch_size", "batch_size: 9 rows, but model 'sum' takes 1 at most"),
        ("ensemble", "batch_size", "batch_size: 9 rows, but model 'ensemble' takes 1 at most"),
    ],
)
def test_what_the_model_cannot_is_refused_before_a_server_starts(
    luigi: Luigi, stateful_models: Path, tmp_path: Path, model: str, parameter: str, problem: str
) -> None:
    write_rows(tmp_path / "a.h5", 10)
    run = luigi(*command(stateful_models, model, **{parameter: "9"}))
    assert run.returncode != 0
    assert problem in re.sub(r"\s+", " ", run.stdout)
    assert not (tmp_path / "out" / "logs").exists()
