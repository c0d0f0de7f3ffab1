"""Runs of `hermes infer`, from its start to its end, beside what the simulation makes of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from benchmarks.scaling.measure import IN_FLIGHT, ROW_BYTES, ROWS_PER_REQUEST
from benchmarks.scaling.model import Costs, Setting
from benchmarks.scaling.simulation import Loss, Outcome, Work, simulate

FEW, MANY = 10, 110  # files whose difference shows what one takes
LIMIT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """Some commands at once, each with as many files of its own."""

    model: str
    clients: int
    files: int
    rows_per_file: int
    killed_at_s: float = 0.0  # the first of them, which is started again at once; 0: none is

    def predict(self, setting: Setting) -> Outcome:
        """Return what the simulation makes of it; the server is there already."""
        work = Work(
            rows=self.clients * self.files * self.rows_per_file,
            rows_per_file=self.rows_per_file,
            files_per_job=self.files,
        )
        costs = replace(setting.costs, server_start_s=0.0)
        each = replace(setting, clients=self.clients, client_hosts=self.clients, costs=costs)
        killed = [Loss(at_s=self.killed_at_s, what="clients")] if self.killed_at_s else []
        return simulate(each, work, killed)

    def measure(self, directory: Path) -> float:
        """Return the seconds from the start of the commands to the end of the last."""
        data, results = directory / "data", directory / "results"
        shutil.rmtree(results, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
        commands = [self._command(directory, data / str(i), results) for i in range(self.clients)]
        with ExitStack() as stack, (directory / "commands.log").open("w") as log:

            def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
                process = stack.enter_context(
                    subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                )
                stack.callback(process.kill)
                return process

            began = time.monotonic()
            running = [start(command) for command in commands]
            if self.killed_at_s:
                time.sleep(self.killed_at_s)
                running[0].kill()
                running[0] = start(commands[0])
            for process in running:
                if process.wait(timeout=LIMIT_S):
                    problem = (directory / "commands.log").read_text()[-2000:]
                    raise RuntimeError(f"{process.args!r} failed: {problem}")
            return time.monotonic() - began

    def _command(self, directory: Path, data: Path, results: Path) -> list[str]:
        data.mkdir(parents=True)
        shape = self.rows_per_file, ROW_BYTES // 4
        files = [data / f"{data.name}-{number:04}.h5" for number in range(self.files)]
        for file in files:
            with h5py.File(file, "w") as opened:
                opened["x"] = np.random.default_rng(0).random(shape, np.float32)
        return [
            *(sys.executable, "-m", "hermes", "infer", str(directory / "endpoint-0.json")),
            *(self.model, "--output-dir", str(results), "--resume"),
            *("--batch-size", str(ROWS_PER_REQUEST), "--max-in-flight", str(IN_FLIGHT)),
            *("--", *map(str, files)),
        ]


RUNS = (
    Run(model="sleeps", clients=1, files=200, rows_per_file=ROWS_PER_REQUEST),
    Run(model="sleeps", clients=2, files=10, rows_per_file=1600),
    Run(model="sleeps", clients=2, files=1, rows_per_file=16000, killed_at_s=8.0),
)


def measure_start(costs: Costs, directory: Path) -> Costs:
    """Return costs with what a command and a file take besides requests."""
    few, many = (
        Run(model="nothing", clients=1, files=n, rows_per_file=ROWS_PER_REQUEST).measure(directory)
        for n in (FEW, MANY)
    )
    file_s = (many - few) / (MANY - FEW)
    n_bytes = ROWS_PER_REQUEST * ROW_BYTES
    way_s = costs.client_s(n_bytes) + costs.server_s(n_bytes) + costs.wait_s
    return replace(costs, file_s=max(0.0, file_s - way_s), job_s=max(0.0, few - FEW * file_s))
