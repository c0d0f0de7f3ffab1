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
    *("--executor", "slurm", "--jobs", "2"),
    *("--slurm-init-seconds-before-status-checks", "1"),
    *("--groups", "infer=infer", "--group-components", "infer=100"),
)
N_FILES, N_ROWS = 2, 200


class Run:
    """Snakemake in a directory of its own; its processes bear a mark, by which they are found."""

    def __init__(
        self, snakemake: Path, directory: Path, place: str, options: tuple[str, ...]
    ) -> None:
        self._snakemake = snakemake
        self._place = place
        self._options = options
        self.directory = directory
        (directory / "data").mkdir(parents=True)
        for index in range(N_FILES):
            with h5py.File(directory / "data" / f"{index}.h5", "w") as file:
                file["x"] = np.arange(N_ROWS, dtype=np.float32).reshape(-1, 1) + index
                file["expected"] = 2 * file["x"][:]
        self.slow = directory / "slow"
        write_model(directory / "models", "double", double_slowly_while(self.slow))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "snakemake.log"

    def start(self) -> None:
        config = {
            "models": self.directory / "models",
            "model": "double",
            "inputs": self.directory / "data",
            "results": self.directory / "results",
            "target": "expected",
            "require": "max_absolute_error <= 0",
            "infer": "--batch-size 1 --linger-s 1",
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

    def has_begun(self) -> bool:
        """Tell whether some of a file is done."""
        assert self.process is not None
        assert self.process.poll() is None, self.logs()
        return any((self.directory / "results").glob("predictions/*.partial"))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to Snakemake; SIGINT as a terminal does, to its jobs too."""
        assert self.process is not None
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of Snakemake, and return its exit code."""
        assert self.process is not None
        return self.process.wait(300)

    def finish(self) -> None:
        """Wait for its end, and check the results."""
        assert self.wait() == 0, self.logs()
        with h5py.File(self.directory / "results" / "merged.h5") as merged:
            assert len(merged["y"]) == N_ROWS * N_FILES
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


@pytest.fixture
def runs(
    snakemake: Path, triton_home: Path, on_slurm: tuple[str, ...], tmp_path: Path
) -> Iterator[list[Run]]:
    """A run for each place of the server, all of them begun: most of their time they wait."""
    runs = [
        Run(snakemake, tmp_path / place, place, on_slurm if place == "slurm" else ())
        for place in ("shared", "service", "slurm")
    ]
    try:
        for run in runs:
            run.slow.touch()
            run.start()
        for run in runs:
            wait_until(run.has_begun, 240)
        yield runs
    finally:
        for pid in {pid for run in runs for pid in run.processes()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for run in runs:
            wait_until(run.is_over, 60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_nothing_is_left_and_it_goes_on(
    runs: list[Run], number: signal.Signals
) -> None:
    for run in runs:
        run.send(number)
        if number != signal.SIGINT:  # after which alone Snakemake ends its jobs
            run.slow.unlink()
    for run in runs:
        run.wait()
        run.slow.unlink(missing_ok=True)
    for run in runs:
        # The jobs that run, a second of the shared server, or 30 s of the beacon.
        wait_until(run.is_over, 90)
        if number == signal.SIGKILL:
            run.unlock()
        run.start()
    for run in runs:
        run.finish()


def test_a_server_that_dies_is_started_again(runs: list[Run]) -> None:
    for run in runs:
        run.kill_server()
        run.slow.unlink()
    for run in runs:
        run.finish()
