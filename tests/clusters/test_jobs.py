"""`Validate` on real batch systems: its results, its faults, and what is left after them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.aeriel.jobs._engines import find_engine
from tests.clusters.pipeline import FAULTS, REPOSITORY, Pipeline, seconds_until_clean
from tests.helpers import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.root]


@pytest.fixture
def pipeline(
    slurm: Path, tmp_path: Path, triton_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    monkeypatch.setenv("SLURM_CONF", str(slurm / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    pipeline = Pipeline(name="slurm", engine=find_engine("slurm"), directory=tmp_path)
    yield pipeline
    seconds_until_clean(pipeline, 30)


def test_jobs_make_what_this_process_makes(pipeline: Pipeline) -> None:
    """Bit by bit; and each leaves nothing to do for the other."""
    pipeline.run()
    assert not (pipeline.directory / "results" / "jobs").exists()
    assert "* 1 complete ones were encountered" in pipeline.run(local=True)
    pipeline.run(local=True, results="local")
    assert pipeline.merged() == pipeline.merged("local")
    for made in ("merged.h5", "report.json"):
        (pipeline.directory / "local" / made).unlink()
    assert "jobs: " not in pipeline.run(results="local")
    assert pipeline.merged() == pipeline.merged("local")


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left_when_the_driver_ends(pipeline: Pipeline, fault: str) -> None:
    end, limit_s = FAULTS[fault]
    process = pipeline.start(model="slow")
    wait_until(pipeline.is_under_way, 60)
    end(pipeline, process.pid)
    seconds_until_clean(pipeline, limit_s)
    output, _ = process.communicate(timeout=10)
    assert process.returncode != 0, output


def test_what_is_lost_is_done_again(pipeline: Pipeline) -> None:
    """A job that is killed is submitted again, and the others go on when the server is."""
    process = pipeline.start(model="slow")
    wait_until(pipeline.is_under_way, 60)
    for role in ("tritonserver", "client"):
        os.kill(next(iter(pipeline.processes(role))), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "a job ended early and is submitted again (1 of 3)" in output
