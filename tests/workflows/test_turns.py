"""Pipelines that take turns on one GPU; there is none here, so which there are is a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.aeriel.supervise import ServerState

from .test_lifetime import SOURCE, Bench, scheduler_port, slow_models, workers

__all__ = ["scheduler_port", "slow_models"]

STAND_IN = SOURCE / "tests" / "environment" / "gpus"
HOLD = """
import sys, time
from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._leases import Holder, hold_gpus
with hold_gpus(GPURequest(gpus=(0,)), Holder(what="somebody's models"), 0):
    print("held", flush=True)
    time.sleep(float(sys.argv[1]))
"""

pytestmark = pytest.mark.usefixtures("triton_home")


class GPUBench(Bench):
    """A bench with one GPU."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, directory / "a")
        # Locks are the host's: no other test may mean the same GPU.
        self.gpu = f"GPU-{uuid.uuid4()}"
        (directory / "gpus.json").write_text(json.dumps([{"uuid": self.gpu}]))
        self.environment["FAKE_GPUS"] = str(directory / "gpus.json")
        self.environment["PYTHONPATH"] = f"{STAND_IN}:{self.environment['PYTHONPATH']}"

    def order(self) -> list[str]:
        return (self.directory / "order").read_text().split()

    def phases(self) -> dict[str, str]:
        """The phase of each server, by the name of its models."""
        listed = subprocess.run(
            [sys.executable, "-m", "hermes", "ps", "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return {Path(s["model_repository"]).name: s["phase"] for s in json.loads(listed.stdout)}


@pytest.fixture
def bench(tmp_path: Path, slow_models: Path) -> Iterator[GPUBench]:
    for name in ("a", "b"):
        shutil.copytree(slow_models, tmp_path / name)
    bench = GPUBench(tmp_path)
    yield bench
    bench.finish()
    for note in Path("/tmp").glob(f"hermes-gpus-*/{bench.gpu}"):
        note.unlink()
    bench.assert_clean()


ON_GPU = "--gpus=[0]"


@pytest.mark.parametrize("n_workers", [1, 3])
class TestTurns:
    def test_consumers_run_before_the_next_server_starts(
        self, bench: GPUBench, n_workers: int
    ) -> None:
        log = bench.run("Two", ON_GPU, workers(n_workers))
        assert ":)" in log, log[-5000:]
        models = [name[0] for name in bench.order()]
        assert models in ([*"aaabbb"], [*"bbbaaa"])
        assert f"held by the server of {bench.directory / models[0]} (process " in log
        assert log.count("Wait longer") == 1

    def test_any_one_gpu_will_do_too(self, bench: GPUBench, n_workers: int) -> None:
        log = bench.run("Two", "--n-gpus=1", workers(n_workers))
        assert ":)" in log, log[-5000:]
        assert [name[0] for name in bench.order()] in ([*"aaabbb"], [*"bbbaaa"])

    def test_priorities_do_not_make_it_stick(self, bench: GPUBench, n_workers: int) -> None:
        log = bench.run("Two", ON_GPU, "--rank=5", workers(n_workers))
        assert ":)" in log, log[-5000:]
        assert sorted(bench.order()) == ["a0", "a1", "a2", "b0", "b1", "b2"]

    def test_a_server_gives_way_to_what_its_own_consumers_wait_for(
        self, bench: GPUBench, n_workers: int
    ) -> None:
        log = bench.run("Crossed", ON_GPU, workers(n_workers))
        assert ":)" in log, log[-5000:]
        order = bench.order()
        assert sorted(order) == ["a0", "a1", "b0"]
        assert order.index("b0") < order.index("a1")

    def test_a_lost_server_gets_its_gpu_back_before_the_next(
        self, bench: GPUBench, n_workers: int
    ) -> None:
        driver = bench.start(bench.command("Two", ON_GPU, workers(n_workers)))
        bench.until(lambda: any((bench.directory / f"{m}0.done").exists() for m in "ab"))
        (supervisor,) = (
            state.owner()
            for state in ServerState.all(bench.state_home)
            if state.endpoint() is not None
        )
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        driver.wait(150)
        assert ":)" in bench.log(), bench.log()[-5000:]
        assert [name[0] for name in bench.order()] in ([*"aaabbb"], [*"bbbaaa"])


class TestOthers:
    def test_a_server_waits_for_somebody_elses_gpu_and_says_so(self, bench: GPUBench) -> None:
        other = bench.start([sys.executable, "-c", HOLD, "8"], "other")
        bench.until(lambda: "held" in bench.log("other"))
        driver = bench.start(bench.command("Work", "--model=a", "--name=a0", ON_GPU))
        bench.until(lambda: bench.phases() == {"a": "waiting"})
        other.wait(20)
        driver.wait(60)
        assert ":)" in bench.log(), bench.log()[-5000:]

    def test_a_server_that_waits_too_long_fails_and_names_the_holder(self, bench: GPUBench) -> None:
        bench.start([sys.executable, "-c", HOLD, "60"], "other")
        bench.until(lambda: "held" in bench.log("other"))
        started_at = time.monotonic()
        log = bench.run(
            "Work",
            "--model=a",
            "--name=a0",
            ON_GPU,
            "--TritonServerTask-server-timeout-s=5",
            "--server-timeout-s=5",
        )
        assert "is held by the server of somebody's models (process" in log
        assert "1 failed" in log
        assert time.monotonic() - started_at < 40
