"""A validation as Snakemake's rules, on this host and on a real Slurm, and what ends it."""

from __future__ import annotations

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
from tests.helpers import wait_until, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.root]

REPOSITORY = Path(__file__).resolve().parents[2]
SNAKEFILE = REPOSITORY / "workflows" / "snakemake" / "Snakefile"
MODEL = """
    def answer(self, request):
        time.sleep({seconds})
        return response(y=2 * array(request, "x"))
"""
ON_SLURM = ("--executor", "slurm", "--jobs", "2", "--slurm-status-command", "squeue")
N_FILES = 3


class Run:
    """Snakemake in a directory of its own; its processes bear a mark, by which they are found."""

    def __init__(self, snakemake: Path, directory: Path) -> None:
        self._snakemake = snakemake
        self.directory = directory
        (directory / "data").mkdir()
        for index in range(N_FILES):
            with h5py.File(directory / "data" / f"{index}.h5", "w") as file:
                file["x"] = np.arange(8, dtype=np.float32).reshape(8, 1) + index
                file["expected"] = 2 * file["x"][:]
        for name, seconds in (("double", 0), ("slow", 1)):
            write_model(directory / "models", name, MODEL.format(seconds=seconds))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "snakemake.log"

    def start(self, *options: str, model: str, **config: str) -> subprocess.Popen[bytes]:
        values = {
            "models": str(self.directory / "models"),
            "model": model,
            "inputs": str(self.directory / "data"),
            "results": str(self.directory / "results"),
            "target": "expected",
            "require": "max_absolute_error <= 0",
            "infer": "--batch-size 1",
            **config,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(self._snakemake), "--snakefile", str(SNAKEFILE), "--cores", "4"),
                    *("--rerun-incomplete", *options),
                    *("--config", *(f"{name}={value}" for name, value in values.items())),
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

    def run(self, *options: str, model: str = "double", **config: str) -> None:
        """Run it to its end, and check the results."""
        code = self.start(*options, model=model, **config).wait(300)
        assert code == 0, self.logs()
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

    def kill_server(self) -> None:
        for pid in self.processes():
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if is_tritonserver(command):
                os.kill(pid, signal.SIGKILL)

    def is_inferring(self) -> bool:
        """Tell whether some of a file is done."""
        return any((self.directory / "results").glob("predictions/*.partial"))


@pytest.fixture
def run(snakemake: Path, triton_home: Path, tmp_path: Path) -> Iterator[Run]:
    run = Run(snakemake, tmp_path)
    yield run
    if run.process is not None and run.process.poll() is None:
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
    wait_until(lambda: not run.processes(), 60)


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


@pytest.mark.parametrize("server", ["shared", "service"])
def test_a_validation_is_right(run: Run, server: str) -> None:
    run.run(server=server)


@pytest.mark.parametrize("server", ["shared", "service"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_nothing_is_left_and_it_goes_on(
    run: Run, server: str, number: signal.Signals
) -> None:
    process = run.start(model="slow", server=server)
    wait_until(run.is_inferring, 120)
    if number == signal.SIGINT:  # as a terminal sends it
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait(60)
    # The jobs that run, 10 s of the shared server, or 30 s of the beacon.
    wait_until(lambda: not run.processes(), 90)
    run.unlock()
    run.run(model="slow", server=server)


@pytest.mark.parametrize("server", ["shared", "service"])
def test_a_server_that_dies_is_started_again(run: Run, server: str) -> None:
    process = run.start(model="slow", server=server)
    wait_until(run.is_inferring, 120)
    run.kill_server()
    assert process.wait(300) == 0, run.logs()


def test_on_slurm_a_validation_is_right(run: Run, on_slurm: tuple[str, ...]) -> None:
    run.run(*on_slurm)


def test_on_slurm_its_jobs_end_with_ctrl_c(run: Run, on_slurm: tuple[str, ...]) -> None:
    process = run.start(*on_slurm, model="slow")
    wait_until(run.is_inferring, 120)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    wait_until(lambda: not run.processes(), 90)
