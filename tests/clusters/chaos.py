"""Faults of pipelines on a real batch system, at random moments: make chaos ENGINE=slurm.

After each, nothing may be left, and running the pipeline again has to end with the right bytes.
It is no part of the suite. SEED chooses other moments, ARGS='-k "job and SIGTERM"' some faults.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.clusters.conftest import Hosts
from tests.clusters.pipeline import FAULTS, ROWS, Cluster, Pipeline, seconds_until_clean
from tests.helpers import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.root]

ENGINE = os.environ.get("ENGINE") or "slurm"
CANCEL = {"slurm": "scancel", "htcondor": "condor_rm"}
# A minute is the shortest that Slurm knows.
WALLTIME = {"slurm": "1:00", "htcondor": "40"}
PLACES = ("driver", "job")
# From the beginning of a run to some way into the inference.
LATEST_S = 10.0
# A client needs longer for most of the files.
LATEST_OF_CLIENT_S = 2.0


@pytest.fixture(params=[ENGINE])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return found


@pytest.fixture
def pipeline(cluster: Cluster, directory: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(cluster, directory)
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left(pipeline: Pipeline, fault: str, place: str) -> None:
    end, limit_s = FAULTS[fault]
    process = pipeline.start("--server-place", place, model="slow")
    wait_until(pipeline.run_directory, 60)
    moment_s = a_moment(fault, place)
    end(pipeline, process.pid)
    # The driver itself need not have begun to listen for SIGTERM when it comes.
    seconds = seconds_until_clean(pipeline, limit_s)
    assert pipeline.finish(10)[0] != 0
    report(fault, place, moment_s, f"clean in {seconds:.1f} s", run_again(pipeline, place))


def test_the_host_of_the_driver_is_lost(pipeline: Pipeline) -> None:
    """The directory and the regions of its server go at the next start on it."""
    process = pipeline.start(model="slow")
    wait_until(pipeline.is_under_way, 60)
    moment_s = a_moment("host", "driver", latest_s=LATEST_OF_CLIENT_S)
    ids = server_ids(pipeline)
    victims = [pid for pid in pipeline.processes() if not job_of(pid)]
    began = time.monotonic()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not pipeline.processes(), 40)
    seconds = time.monotonic() - began
    again = run_again(pipeline, "driver")
    seconds_until_clean(pipeline, 10)
    assert not regions(ids)
    text = f"{len(victims)} processes killed, the others ended in {seconds:.1f} s"
    report("the driver's host", "driver", moment_s, text, again)


def first(role: str) -> Callable[[Pipeline], list[int]]:
    """Return what finds the process to be killed."""
    return lambda pipeline: list(pipeline.processes(role))[:1]


def all_of_job(role: str) -> Callable[[Pipeline], list[int]]:
    """Return what finds all processes of a job: a cgroup ends them at once."""

    def found(pipeline: Pipeline) -> list[int]:
        job = job_of(next(iter(pipeline.processes(role))))
        return [pid for pid in pipeline.processes() if job_of(pid) == job]

    return found


SURVIVED: dict[str, tuple[str, Callable[[Pipeline], list[int]]]] = {
    "tritonserver SIGKILL": ("tritonserver", first("tritonserver")),
    "supervisor SIGKILL": ("supervisor", first("supervisor")),
    "server job SIGKILL": ("server job", first("server job")),
    "all of server job SIGKILL": ("server job", all_of_job("server job")),
    "client SIGKILL": ("client", first("client")),
    "all of client SIGKILL": ("client", all_of_job("client")),
    "reaper SIGKILL": ("reaper", first("reaper")),
}
"""What the pipeline outlives: the role for which to wait, and what is killed."""


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        (place, fault)
        for place in PLACES
        for fault in SURVIVED
        if ("server job" if place == "driver" else "supervisor") not in fault
    ],
)
def test_the_pipeline_goes_on(pipeline: Pipeline, fault: str, place: str) -> None:
    role, find = SURVIVED[fault]
    pipeline.start("--server-place", place, model="slow")
    wait_until(lambda: pipeline.processes(role), 60)
    moment_s = a_moment(fault, place, latest_s=LATEST_OF_CLIENT_S)
    ids = server_ids(pipeline)
    began = time.monotonic()
    victims = find(pipeline)
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    finish(pipeline, fault, place, f"{len(victims)} killed after {moment_s:.1f} s", began)
    assert not regions(ids)


@pytest.mark.parametrize("what", ["server", "client"])
def test_a_job_is_cancelled(pipeline: Pipeline, what: str) -> None:
    pipeline.start("--server-place", "job", model="slow")
    wait_until(pipeline.is_under_way, 60)
    moment_s = a_moment("cancelled", what, latest_s=LATEST_OF_CLIENT_S)
    began = time.monotonic()
    run = pipeline.run_directory()
    assert run is not None
    jobs = sorted(pipeline.cluster.states(run.name), key=lambda job: int(job.submission))
    job = jobs[0 if what == "server" else -1]
    separator = "_" if ENGINE == "slurm" else "."
    cancel = [CANCEL[ENGINE], f"{job.submission}{separator}{job.number}"]
    subprocess.run([*pipeline.cluster.prefix, *cancel], check=True, env=pipeline.environment)
    finish(pipeline, f"job of the {what} cancelled", "job", f"after {moment_s:.1f} s", began)


def test_the_time_of_jobs_ends(pipeline: Pipeline) -> None:
    began = time.monotonic()
    options = ("--servers", "2", "--walltime", WALLTIME[ENGINE], "--job-retries", "9")
    pipeline.start("--server-place", "job", *options, model="slower")
    text = f"limit {WALLTIME[ENGINE]}"
    finish(pipeline, "time of servers and clients", "job", text, began, timeout_s=500)


@pytest.mark.skipif(ENGINE != "slurm", reason="the pool of HTCondor has one node")
@pytest.mark.parametrize("what", ["server", "client"])
def test_a_node_is_lost(hosts: Hosts, directory: Path, what: str) -> None:
    pipeline = Pipeline(hosts.cluster("login"), directory)
    pipeline.environment["HERMES_STATE_HOME"] = "/tmp/state"
    try:
        place = "job" if what == "server" else "driver"
        pipeline.start("--server-place", place, model="slow")
        wait_until(pipeline.is_under_way, 60)
        moment_s = a_moment("node", what, latest_s=LATEST_OF_CLIENT_S)
        began = time.monotonic()
        role = "server job" if what == "server" else "client"
        name = next(
            name for name in hosts.names for pid in pipeline.processes(role) if hosts.has(name, pid)
        )
        os.kill(hosts.first_process(name), signal.SIGKILL)
        finish(pipeline, f"node of a {what}", place, f"{name} lost after {moment_s:.1f} s", began)
    finally:
        pipeline.close()


@pytest.mark.skipif(ENGINE != "htcondor", reason="Slurm's nodes are hosts here")
def test_the_node_ends_all_jobs(pipeline: Pipeline, condor: Path) -> None:
    """What watches the jobs of a node is killed, with all of them; HTCondor starts it again."""
    pipeline.start("--server-place", "job", model="slow")
    wait_until(pipeline.is_under_way, 60)
    moment_s = a_moment("node", "job", latest_s=LATEST_OF_CLIENT_S)
    began = time.monotonic()
    root = str(condor / "root")
    (startd,) = [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] == "condor_startd"
        and str(Path(f"/proc/{process.pid}/root").readlink()) == root
    ]
    victims = [startd, *startd.children(recursive=True)]
    victims += [psutil.Process(pid) for pid in pipeline.processes() if job_of(pid)]
    for process in victims:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    text = f"{len(victims)} killed after {moment_s:.1f} s"
    finish(pipeline, "node of server and clients", "job", text, began, timeout_s=400)


def a_moment(*what: str, latest_s: float = LATEST_S) -> float:
    """Wait for some seconds, and return how many."""
    seed = "".join([str(os.environ.get("SEED")), *what])
    moment_s = random.Random(seed).uniform(0, latest_s)
    time.sleep(moment_s)
    return moment_s


def job_of(pid: int) -> str:
    """Return what stands for the job to which a process belongs; empty outside of one."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except OSError:  # it ended
        return ""
    marks = ("SLURM_JOB_ID=", "_CONDOR_SCRATCH_DIR=")
    return next((each for each in variables if each.startswith(marks)), "")


def server_ids(pipeline: Pipeline) -> list[str]:
    """Return the ids of the servers that are there."""
    return [path.name for path in (pipeline.directory / "state").glob("hermes-*") if path.is_dir()]


def regions(ids: list[str]) -> list[str]:
    """Return the shared memory of servers."""
    names = [path.name for path in Path("/dev/shm").iterdir()]
    return [name for name in names if any(each in name for each in ids)]


def run_again(pipeline: Pipeline, place: str) -> str:
    """Run the pipeline to its end, check its results, and return what it did."""
    began = time.monotonic()
    output = pipeline.run("--server-place", place, model="slow")
    check(pipeline)
    left = re.findall(r"of (\d+) files", output) or ["0"]
    seconds = time.monotonic() - began
    return f"the rerun did {left[0]} of {len(ROWS)} files, right in {seconds:.0f} s"


def finish(
    pipeline: Pipeline, fault: str, place: str, text: str, began: float, timeout_s: float = 300
) -> None:
    """Check that a pipeline ends with the right results, and leaves nothing."""
    code, output = pipeline.finish(timeout_s)
    assert code == 0, output
    check(pipeline)
    seconds_until_clean(pipeline, 10)
    again = output.count("submitted again")
    seconds = time.monotonic() - began
    report(fault, place, 0.0, text, f"{again} submitted again, right {seconds:.0f} s later")


def check(pipeline: Pipeline) -> None:
    """Compare the results with what they have to be."""
    assert pipeline.merged()["y"] == pipeline.expected()
    jobs = pipeline.directory / "results" / "jobs"
    assert not [path for path in jobs.rglob("*") if path.is_file() and path.suffix != ".log"]


def report(fault: str, place: str, moment_s: float, *texts: str) -> None:
    """Print a line of the table of faults."""
    when = f"after {moment_s:.1f} s: " if moment_s else ""
    print(f"\n{ENGINE}, server in {place}: {fault}: {when}{'; '.join(texts)}", flush=True)
