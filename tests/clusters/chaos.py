"""Faults of pipelines on a real batch system, at random moments: make chaos ENGINE=slurm.

After each, nothing may be left, and running the pipeline again has to end with the right bytes.
It is no part of the suite. SEED chooses other moments, ARGS='-k "job and SIGTERM"' some faults.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.clusters.pipeline import FAULTS, Cluster, Pipeline, seconds_until_clean
from tests.helpers import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.root]

ENGINE = os.environ.get("ENGINE") or "slurm"
PLACES = ("driver", "job")
# What the pipeline outlives, with the role of the process that is killed.
SURVIVED = {"driver": ("tritonserver", "supervisor", "client", "reaper")}
SURVIVED["job"] = ("tritonserver", "server job", "client", "reaper")
# From the start of the driver to some way into the inference.
MOMENTS_S = (2.0, 16.0)


@pytest.fixture(params=[ENGINE])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left(cluster: Cluster, directory: Path, fault: str, place: str) -> None:
    pipeline = Pipeline(cluster, directory)
    end, limit_s = FAULTS[fault]
    process = pipeline.start("--server-place", place, model="slow")
    moment_s = random.Random(f"{os.environ.get('SEED')}{fault}{place}").uniform(*MOMENTS_S)
    time.sleep(moment_s)
    end(pipeline, process.pid)
    # The driver itself need not have begun to listen for SIGTERM when it comes.
    seconds = seconds_until_clean(pipeline, limit_s)
    assert pipeline.finish(10)[0] != 0
    began = time.monotonic()
    pipeline.run("--server-place", place, model="slow")
    check(pipeline)
    report(fault, place, f"after {moment_s:.1f} s: clean in {seconds:.1f} s", began)


@pytest.mark.parametrize(("place", "role"), [(p, role) for p in PLACES for role in SURVIVED[p]])
def test_the_pipeline_goes_on(cluster: Cluster, directory: Path, role: str, place: str) -> None:
    pipeline = Pipeline(cluster, directory)
    pipeline.start("--server-place", place, model="slow")
    wait_until(lambda: pipeline.processes(role), 60)
    moment_s = random.Random(f"{os.environ.get('SEED')}{role}{place}").uniform(0, 8)
    time.sleep(moment_s)
    began = time.monotonic()
    victims = list(pipeline.processes(role))
    for pid in victims[:1]:
        os.kill(pid, signal.SIGKILL)
    code, output = pipeline.finish()
    assert code == 0, output
    check(pipeline)
    seconds_until_clean(pipeline, 10)
    report(f"{role} SIGKILL", place, f"{len(victims[:1])} killed after {moment_s:.1f} s", began)


def check(pipeline: Pipeline) -> None:
    """Compare the results with those of a pipeline without a fault."""
    pipeline.run(local=True, results="local", model="slow")
    assert pipeline.merged() == pipeline.merged("local")
    jobs = pipeline.directory / "results" / "jobs"
    assert not [path for path in jobs.rglob("*") if path.is_file() and path.suffix != ".log"]


def report(fault: str, place: str, text: str, began: float) -> None:
    """Print a line of the table of faults."""
    seconds = time.monotonic() - began
    print(
        f"\n{ENGINE}, server in {place}: {fault}: {text}, right {seconds:.0f} s later", flush=True
    )
