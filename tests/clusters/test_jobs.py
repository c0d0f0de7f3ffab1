"""`Validate` on real batch systems: its results, its faults, and what is left after them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.pipeline import FAULTS, Cluster, Pipeline, seconds_until_clean
from tests.helpers import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.root]


IN_A_JOB = ("--server-place", "job")
SLURM, HTCONDOR = "slurm", "htcondor"


@pytest.fixture
def pipeline(cluster: Cluster, directory: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(cluster, directory)
    yield pipeline
    pipeline.close()
    seconds_until_clean(pipeline, 30)


@pytest.mark.parametrize("cluster", [SLURM, HTCONDOR], indirect=True)
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


@pytest.mark.parametrize(
    ("cluster", "fault", "options"),
    [
        (SLURM, "driver SIGINT", ()),
        (SLURM, "driver SIGKILL", IN_A_JOB),
        (SLURM, "driver, worker and reaper SIGKILL", IN_A_JOB),
        (HTCONDOR, "driver SIGKILL", IN_A_JOB),
    ],
    indirect=["cluster"],
)
def test_nothing_is_left_when_the_driver_ends(
    pipeline: Pipeline, fault: str, options: tuple[str, ...]
) -> None:
    end, limit_s = FAULTS[fault]
    process = pipeline.start(*options, model="slower")
    wait_until(pipeline.is_under_way, 60)
    end(pipeline, process.pid)
    seconds_until_clean(pipeline, limit_s)
    code, output = pipeline.finish(10)
    assert code != 0, output


@pytest.mark.parametrize(
    ("cluster", "options", "victim"),
    [
        (SLURM, (), "tritonserver"),
        (SLURM, IN_A_JOB, "server job"),
        (HTCONDOR, IN_A_JOB, "server job"),
    ],
    indirect=["cluster"],
)
def test_what_is_lost_is_done_again(
    pipeline: Pipeline, options: tuple[str, ...], victim: str
) -> None:
    """Jobs that are killed are submitted again, and clients go on when the server has come back."""
    pipeline.start(*options, model="slow")
    wait_until(pipeline.is_under_way, 60)
    for role in (victim, "client"):
        os.kill(next(iter(pipeline.processes(role))), signal.SIGKILL)
    code, output = pipeline.finish()
    assert code == 0, output
    assert "a job ended early and is submitted again (1 of 3)" in output
    assert ("the job of the server has ended" in output) == (victim == "server job")
