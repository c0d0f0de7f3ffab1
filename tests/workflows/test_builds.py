"""One process and several builds: what it has found out in one counts for nothing in the next."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import luigi
import numpy as np
import pytest

from workflows._builds import found_by_driver, once_per_build

from .test_lifetime import Bench, bench, slow_models

__all__ = ["bench", "slow_models"]

# Its parameters are the same in each build; where it runs, and what is there, are not.
PREDICT = """
import os, sys
from pathlib import Path
import h5py, luigi, numpy as np
from workflows import InferenceTask, TritonServerTask

class Data(luigi.ExternalTask):
    def output(self):
        return luigi.LocalTarget("data.h5")

class Predict(InferenceTask):
    def requires(self):
        return {"server": TritonServerTask(model_repository="models"), "input": Data()}

    def output(self):
        return luigi.LocalTarget("predictions.h5")

repository, n_workers, *directories = sys.argv[1:]
for value, directory in enumerate(directories, 1):
    Path(directory).mkdir(exist_ok=True)
    os.chdir(directory)
    if not Path("models").exists():
        Path("models").symlink_to(repository)
    with h5py.File("data.h5", "w") as file:
        file["x"] = np.full((10, 4), value, "f4")
    task = Predict(model_name="double", outputs=["double"], input_map={"x": "x"})
    assert luigi.build([task], local_scheduler=True, workers=int(n_workers))
    with h5py.File("predictions.h5") as file:
        print("value", value, "factor", file["double"][0, 0] / value, flush=True)
    os.chdir("..")
"""
# As python-daemon does it, or a service that forks.
DAEMON = """
import os, sys
import luigi, pipelines

if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
task = getattr(pipelines, sys.argv[1])(model_repository=sys.argv[2])
is_built = luigi.build([task], local_scheduler=True, workers=int(sys.argv[3]))
open("built", "w").write(str(is_built))
"""


class Counter(luigi.Task):
    """Counts how often it was looked at."""

    looks = 0
    is_done = False

    @once_per_build
    def number(self) -> int:
        type(self).looks += 1
        return self.looks

    def complete(self) -> bool:
        return self.is_done and self.number == self.number

    def run(self) -> None:
        assert self.number == self.number
        self.is_done = True


def test_what_is_found_in_a_build_is_looked_at_again_in_the_next() -> None:
    def build() -> None:
        assert luigi.build([Counter()], local_scheduler=True, log_level="ERROR")

    Counter.looks = 0
    build()
    assert Counter.looks == 1
    build()
    assert Counter.looks == 2
    assert (Counter().number, Counter().number) == (3, 4)  # outside of a build


class Inherited(luigi.Task):
    """Counts how often it was looked at, in the driver and in its worker."""

    file = luigi.Parameter()
    looks = 0

    @found_by_driver
    def of_driver(self) -> int:
        Inherited.looks += 1
        return Inherited.looks

    @once_per_build
    def own(self) -> int:
        Inherited.looks += 1
        return Inherited.looks

    def complete(self) -> bool:
        # Luigi may ask the worker too, once it has run.
        return self.of_driver == 1 and self.own > 1 and Path(self.file).exists()

    def run(self) -> None:
        Path(self.file).write_text(f"{self.of_driver} {self.own}")


def test_a_worker_has_what_its_driver_has_found_where_that_is_said(tmp_path: Path) -> None:
    Inherited.looks = 0
    file = tmp_path / "looks"
    task = Inherited(file=str(file))
    assert luigi.build([task], workers=2, local_scheduler=True, log_level="ERROR")
    assert file.read_text() == "1 3"


@pytest.mark.usefixtures("triton_home")
class TestBuilds:
    @pytest.mark.parametrize("n_workers", [1, 2])
    def test_a_build_sees_what_has_changed_since_the_one_before(
        self, bench: Bench, n_workers: int
    ) -> None:
        command = [sys.executable, "-c", PREDICT, str(bench.repository), str(n_workers)]
        driver = bench.start([*command, "here", "here", "there", "here"])
        assert driver.wait(120) == 0, bench.log()[-5000:]
        for value in range(1, 5):
            assert f"value {value} factor 2.0\n" in bench.log()
        with h5py.File(bench.directory / "here" / "predictions.h5") as file:
            assert np.array_equal(file["double"][:], np.full((10, 4), 8, np.float32))

    @pytest.mark.parametrize("n_workers", [1, 2])
    @pytest.mark.parametrize("task", ["Plain", "Dynamic"])
    def test_a_process_that_has_become_a_daemon_drives(
        self, bench: Bench, n_workers: int, task: str
    ) -> None:
        arguments = [task, str(bench.repository), str(n_workers)]
        bench.start([sys.executable, "-c", DAEMON, *arguments])
        bench.until_there("built", 60)
        assert (bench.directory / "built").read_text() == "True", bench.log()[-5000:]
        assert (bench.directory / "plain.done").read_text() == "[0.0, 2.0, 4.0, 6.0]"
