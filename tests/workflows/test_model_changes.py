"""A model whose files change while its server is up: no answer of the old one counts as the new."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from .test_lifetime import Bench, slow_models, workers

__all__ = ["slow_models"]

pytestmark = pytest.mark.usefixtures("triton_home")


@pytest.fixture
def bench(tmp_path: Path, slow_models: Path) -> Iterator[Bench]:
    """A bench with models of its own and two inputs."""
    shutil.copytree(slow_models, tmp_path / "models")
    for name in ("first.h5", "second.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = np.ones((4, 4), np.float32)
    bench = Bench(tmp_path, tmp_path / "models")
    yield bench
    bench.finish()
    bench.assert_clean()


def factor(bench: Bench, name: str) -> float:
    with h5py.File(bench.directory / name) as file:
        return float(file["double"][0, 0])


def test_a_pipeline_gets_a_server_with_the_model_as_it_is(bench: Bench) -> None:
    holder = bench.start(bench.command("Plain", "--seconds=20"), "holder")
    bench.until_there("plain.started")
    source = bench.repository / "double" / "1" / "model.py"
    source.write_text(source.read_text().replace("2 * x", "3 * x"))
    log = bench.run("Infer", "--file=first.h5", "--model-name=double")
    assert ":)" in log, log[-5000:]
    assert factor(bench, "first.out.h5") == 3
    assert holder.poll() is None
    assert holder.wait(60) == 0
    assert (bench.directory / "plain.done").read_text() == "[0.0, 2.0, 4.0, 6.0]"


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_model_that_changes_within_a_pipeline_is_never_taken_for_the_old_one(
    bench: Bench, n_workers: int
) -> None:
    log = bench.run("InferBoth", workers(n_workers))
    assert factor(bench, "first.out.h5") == 2
    if ":)" not in log:
        assert "have changed since" in log
        assert not (bench.directory / "second.out.h5").exists()
        log = bench.run("InferBoth", workers(n_workers))
    assert factor(bench, "second.out.h5") == 3
