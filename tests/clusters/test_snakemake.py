"""A validation as Snakemake's rules, on this host and on a real Slurm, and what ends it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes._processes import is_tritonserver, marked_processes
from tests.helpers import double_slowly_while, wait_until, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.root]

REPOSITORY = Path(__file__).resolve().parents[2]
SNAKEFILE = REPOSITORY / "workflows" / "snakemake" / "Snakefile"
# Jobs are looked at after 1 s and again 11 s later, in place of 40 s and 50 s later. All of the
# inference is one job.
ON_SLURM = (
    *("--executor", "slurm", "--jobs", "2", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1"),
    *("--groups", "infer=infer", "--group-components", "infer=100"),
)
N_FILES = 2


class Run:
    """Snakemake in a directory of its own; its processes bear a mark, by which they are found."""

    def __init__(
        self, snakemake: Path, directory: Path, place: str, options: tuple[str, ...]
    ) -> None:
        self._snakemake = snakemake
        self._place = place
        self._options = options
        self.directory = directory
        (directory / "data").mkdir()
        for index in range(N_FILES):
            with h5py.File(directory / "data" / f"{index}.h5", "w") as file:
                file["x"] = np.arange(8, dtype=np.float32).reshape(8, 1) + index
                file["expected"] = 2 * file["x"][:]
        self.slow = directory / "slow"
        write_model(directory / "models", "double", double_slowly_while(self.slow))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "snakemake.log"

    def start(self) -> subprocess.Popen[bytes]:
        config = {
            "models": self.directory / "models",
            "model": "double",
            "inputs": self.directory / "data",
            "results": self.directory / "results",
            "target": "expected",
            "require": "max_absolute_error <= 0",
            "infer": "--batch-size 1",
            "server": "service" if self._place == "service" else "shared",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(self._snakemake), "--snakefile", str(SNAKEFILE), "--cores", "4"),
                    *("--rerun-incomplete", *self._options),
                    *("--config", *(f"{name}={value}" for name, value in config.items())),
                ],
                cwd=self.directory,
                env={
                    **os.environ,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    "HERMES_TEST": str(self.directory),
                    "HERMES_STATE_HOME": str(self.directory / "state"),
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def start_slowly(self) -> subprocess.Popen[bytes]:
        """Start it, and return when some of a file is done."""
        self.slow.touch()
        process = self.start()
        wait_until(lambda: any((self.directory / "results").glob("predictions/*.partial")), 240)
        return process

    def finish(self) -> None:
        """Wait for its end, and check the results."""
        assert self.process is not None
        assert self.process.wait(300) == 0, self.logs()
        with h5py.File(self.directory / "results" / "merged.h5") as merged:
            assert len(merged["y"]) == 8 * N_FILES
            assert np.array_equal(merged["y"], merged["target"])

    def logs(self) -> str:
        of_jobs = (self.directory / ".snakemake" / "slurm_logs").rglob("*.log")
        return "\n".join(file.read_text()[-4000:] for file in (self.log, *of_jobs))

    def unlock(self) -> None:
        """Release the lock of a Snakemake that was killed."""
        command = [str(self._snakemake), "--snakefile", str(SNAKEFILE), "--unlock"]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)

    def processes(self) -> set[int]:
        return marked_processes(f"HERMES_TEST={self.directory}")

    def is_over(self) -> bool:
        """Tell whether there is no process of it, and no job."""
        queue = ["squeue", "--noheader"]
        jobs = subprocess.check_output(queue) if self._place == "slurm" else b""
        return not self.processes() and not jobs

    def kill_server(self) -> None:
        for pid in self.processes():
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if is_tritonserver(command):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["shared", "service", "slurm"])
def run(
    request: pytest.FixtureRequest, snakemake: Path, triton_home: Path, tmp_path: Path
) -> Iterator[Run]:
    options = request.getfixturevalue("on_slurm") if request.param == "slurm" else ()
    run = Run(snakemake, tmp_path, request.param, options)
    yield run
    # A server that others may share lives 10 s longer.
    for pid in run.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_until(run.is_over, 60)
    if run.process is not None:
        run.process.wait()


@pytest.fixture
def on_slurm(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    configuration = slurm / "slurm.conf"
    # Snakemake takes Slurm's variables out of a job, and this Slurm is not configured in /etc.
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    return ON_SLURM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_nothing_is_left_and_it_goes_on(run: Run, number: signal.Signals) -> None:
    process = run.start_slowly()
    if number == signal.SIGINT:  # as a terminal sends it
        os.killpg(process.pid, number)
        process.wait(120)
        run.slow.unlink()
    else:  # Snakemake does not end its jobs
        process.send_signal(number)
        run.slow.unlink()
        process.wait(120)
    # The jobs that run, 10 s of the shared server, or 30 s of the beacon.
    wait_until(run.is_over, 90)
    if number == signal.SIGKILL:
        run.unlock()
    run.start()
    run.finish()


def test_a_server_that_dies_is_started_again(run: Run) -> None:
    run.start_slowly()
    run.kill_server()
    run.slow.unlink()
    run.finish()
