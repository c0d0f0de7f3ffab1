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


IN_A_JOB = ("--server-place", "job")


@pytest.fixture
def pipeline(
    slurm: Path, tmp_path: Path, triton_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    monkeypatch.setenv("SLURM_CONF", str(slurm / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    pipeline = Pipeline(name="slurm", engine=find_engine("slurm"), directory=tmp_path)
    yield pipeline
    pipeline.close()
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


@pytest.mark.parametrize(
    ("fault", "options"),
    [(fault, IN_A_JOB if "reaper" in fault else ()) for fault in FAULTS],
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
    ("options", "victim"), [((), "tritonserver"), (IN_A_JOB, "server job")], ids=["driver", "job"]
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
