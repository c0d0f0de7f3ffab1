"""`Validate` on real batch systems: its results, its faults, and what is left after them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel._beacon import LIMIT_S
from tests.clusters.pipeline import FAULTS, REPOSITORY, ROWS, Cluster, Pipeline, seconds_until_clean
from tests.helpers import DOUBLE, wait_until, write_model

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


def test_steps_of_one_allocation(slurm_cluster: Cluster, directory: Path) -> None:
    """They do the same, and end with the allocation."""
    name = f"allocation-{os.getpid()}"
    prefix = ("salloc", "--quiet", "--ntasks=4", f"--job-name={name}")
    pipeline = Pipeline(replace(slurm_cluster, name="slurm-steps", prefix=prefix), directory)
    pipeline.run(*IN_A_JOB)
    pipeline.start(*IN_A_JOB, model="slower", results="others")
    wait_until(lambda: pipeline.processes("client"), 60)
    subprocess.run(["scancel", f"--name={name}"], check=True, env=pipeline.environment)
    assert pipeline.finish(20)[0] != 0
    seconds_until_clean(pipeline, 20)
    pipeline.run(local=True)
    assert pipeline.merged()


def test_the_page(slurm_cluster: Cluster, directory: Path) -> None:
    """What clusters.md shows works, with the digits of the demo."""
    demo = [sys.executable, str(REPOSITORY / "examples" / "digits.py"), str(directory)]
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
    page = (REPOSITORY / "docs" / "clusters.md").read_text()
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    environment = {
        **slurm_cluster.environment(),
        "HERMES_STATE_HOME": str(directory / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for language, block in blocks:
        if language == "python":
            (directory / block.split()[1]).write_text(block)
            continue
        command = ["sh", "-ec", block.replace("PYTHONPATH=.", "PYTHONPATH=.:$PYTHONPATH")]
        run(command, directory, environment, 120)
    assert sorted(path.name for path in (directory / "scores").iterdir()) == [
        "digits-0.h5",
        "digits-1.h5",
    ]


def test_time_slides(slurm_cluster: Cluster, directory: Path) -> None:
    """Jobs run each file for each slide, and the rows are those of numpy."""
    write_model(directory / "models", "double", DOUBLE, inputs={"x": ("FP32", [2, 8])})
    series = np.random.default_rng(0).standard_normal((2, 2, 100)).astype(np.float32)
    for number, channels in enumerate(series):
        with h5py.File(directory / f"{number}.h5", "w") as file:
            file["strain"] = channels
    slides = [(0, 0), (0, 3), (-2, 0)]
    command = [
        *(sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate"),
        *("--model-repository", str(directory / "models"), "--model-name", "double"),
        *("--inputs", str(directory / "*.h5"), "--window", "8", "--stride", "4"),
        *("--shifts", json.dumps([list(map(str, slide)) for slide in slides])),
        *("--output-dir", str(directory / "results"), "--engine", "slurm", "--local-scheduler"),
    ]
    environment = {**slurm_cluster.environment(), "HERMES_STATE_HOME": str(directory / "state")}
    run(command, directory, environment, 240)
    wanted, files, numbers = [], [], []
    for number, (first, second) in enumerate(slides):
        begin, n_rows = -min(first, second), (100 - 8 - abs(second - first)) // 4 + 1
        for file, channels in enumerate(series):
            views = np.lib.stride_tricks.sliding_window_view(channels, 8, axis=1)
            rows = begin + 4 * np.arange(n_rows)
            wanted.append(2 * np.stack([views[0, rows + first], views[1, rows + second]], axis=1))
            files += [file] * n_rows
            numbers += [number] * n_rows
    with h5py.File(directory / "results" / "merged.h5") as merged:
        np.testing.assert_array_equal(merged["y"], np.concatenate(wanted))
        np.testing.assert_array_equal(merged["index/file"], files)
        np.testing.assert_array_equal(merged["index/slide"], numbers)


@pytest.mark.parametrize(
    ("cluster", "fault", "options"),
    [
        (SLURM, "driver SIGINT", ()),
        (SLURM, "driver SIGKILL", IN_A_JOB),
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


@pytest.mark.parametrize("cluster", [SLURM], indirect=True)
def test_jobs_of_a_dead_driver_do_not_hinder_the_next_run(pipeline: Pipeline) -> None:
    """They end as it begins, though the beacon has stood still for a moment only."""
    process = pipeline.start(*IN_A_JOB, model="slow")
    wait_until(pipeline.is_under_way, 60)
    left = pipeline.run_directory()
    assert left is not None
    FAULTS["driver, worker and reaper SIGKILL"][0](pipeline, process.pid)
    process.wait()
    pipeline.start(*IN_A_JOB, model="slow")
    wait_until(lambda: not left.exists(), LIMIT_S - 5)
    code, output = pipeline.finish()
    assert code == 0, output
    assert pipeline.merged()["y"] == pipeline.expected()
    assert not (pipeline.directory / "results" / "jobs").exists()


@pytest.mark.parametrize(
    ("cluster", "options", "victim"),
    [
        (SLURM, (), "tritonserver"),
        (SLURM, (*IN_A_JOB, "--n-gpus", "1"), "server job"),
        (HTCONDOR, (*IN_A_JOB, "--servers", "2", "--n-gpus", "1"), "server job"),
    ],
    indirect=["cluster"],
)
def test_what_is_lost_is_done_again(
    pipeline: Pipeline, options: tuple[str, ...], victim: str
) -> None:
    """Jobs that are killed are submitted again, and clients go on when the server has come back."""
    pipeline.start(*options, model="slow")
    wait_until(pipeline.is_under_way, 60)
    if options:
        gpus = [gpu_of(server) for server in pipeline.processes("tritonserver")]
        assert gpus
        assert len(gpus) == len(set(gpus))
        listed = Path(pipeline.environment["FAKE_GPUS"]).read_text()
        assert all(gpu in listed for gpu in gpus)
    wait_until(lambda: client_of_most_rows(pipeline), 60)
    for pid in (max(pipeline.processes(victim)), client_of_most_rows(pipeline)):
        assert pid
        os.kill(pid, signal.SIGKILL)
    code, output = pipeline.finish()
    assert code == 0, output
    assert "a job ended early and is submitted again (1 of 3)" in output
    assert ("the job of the server has ended" in output) == (victim == "server job")


@pytest.mark.parametrize("cluster", [SLURM], indirect=True)
def test_several_servers(pipeline: Pipeline) -> None:
    """Clients of a lost one go to another; one without clients ends; the last one comes back.

    There are four CPUs for two servers and four clients.
    """
    pipeline.start(*IN_A_JOB, "--servers", "2", "--n-gpus", "1", model="slow")
    first, third = (suspended_client(pipeline, number, server=0) for number in (0, 2))
    job = server_job(pipeline, 0)
    variables = Path(f"/proc/{job}/environ").read_text().split("\0")
    (name,) = [each for each in variables if each.startswith("SLURM_JOB_ID=")]
    cancel = ["scancel", name.partition("=")[2]]
    subprocess.run(cancel, check=True, env=pipeline.environment)
    wait_until(lambda: job not in pipeline.processes("server job"), 30)
    fourth = suspended_client(pipeline, 3, server=1)  # no CPU is left for a new server 0
    for pid in (first, third):
        os.kill(pid, signal.SIGCONT)
    for number in (0, 2):
        wait_for_client(pipeline, number, server=1)
    run = pipeline.run_directory()
    assert run is not None
    wait_until(lambda: not (run / "server-0.json").exists(), 60)
    os.kill(server_job(pipeline, 1), signal.SIGKILL)
    os.kill(fourth, signal.SIGCONT)
    code, output = pipeline.finish()
    assert code == 0, output
    assert output.count("the job of the server has ended") == 2
    report = json.loads((pipeline.directory / "results" / "report.json").read_text())
    servers = report["servers"]
    assert len({each["address"] for each in servers}) == 2
    assert servers[1]["restarts"] == 1
    assert servers[1]["requests"]
    assert pipeline.merged()["y"] == pipeline.expected()


def suspended_client(pipeline: Pipeline, number: int, *, server: int) -> int:
    """Suspend a client that has begun to use a server, and return its process."""
    wait_for_client(pipeline, number, server=server)
    (pid,) = [
        pid for pid, command in pipeline.processes("client").items() if command[-2] == str(number)
    ]
    os.kill(pid, signal.SIGSTOP)
    return pid


def wait_for_client(pipeline: Pipeline, number: int, *, server: int) -> None:
    """Wait until a client uses a server."""

    def uses_it() -> bool:
        run = pipeline.run_directory()
        log = None if run is None else run / "0" / f"{number}.log"
        return log is not None and log.exists() and f"uses server {server}" in log.read_text()

    wait_until(uses_it, 60)


def server_job(pipeline: Pipeline, number: int) -> int:
    """Return the process of a server's job."""
    servers = pipeline.processes("server job").items()
    (pid,) = [pid for pid, command in servers if command[-3] == str(number)]
    return pid


def client_of_most_rows(pipeline: Pipeline) -> int | None:
    """Return the process that has most left to do: another may have done its only row."""
    number = str(ROWS.index(max(ROWS)))
    clients = pipeline.processes("client").items()
    return next((pid for pid, command in clients if command[-2] == number), None)


def gpu_of(pid: int) -> str:
    """Return the GPU that a process sees."""
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    (gpu,) = [each for each in variables if each.startswith("CUDA_VISIBLE_DEVICES=")]
    assert re.fullmatch("CUDA_VISIBLE_DEVICES=GPU-[^,]+", gpu)
    return gpu.partition("=")[2]


def run(
    command: list[str], directory: Path, environment: Mapping[str, str], timeout_s: float
) -> None:
    """Run a command in a directory; fail with what it wrote where it does."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout
