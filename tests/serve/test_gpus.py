"""GPUs: which a server may use, and the locks that keep others from them.

There is no GPU here, so one library call is a stand-in (tests/environment/gpus): which GPUs there
are. Processes, locks, kills and servers are real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from hermes.aeriel._processes import is_tritonserver, server_processes
from hermes.aeriel.serve._gpus import GPU, GPURequest, gpu_environment, named_gpus, visible_gpus
from hermes.errors import ParameterError

SOURCE = Path(__file__).resolve().parents[2]
STAND_IN = SOURCE / "tests" / "environment" / "gpus"
GPUS = [GPU(index=index, uuid=f"GPU-{index}{index}{index}{index}-abcd") for index in range(4)]
NOBODY = 65534

TAKE = """
import os, sys, json, time
from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._leases import Holder, lease_gpus
from hermes.errors import HermesError
os.setuid(int(sys.argv[3]))
try:
    lease = lease_gpus(GPURequest(**json.loads(sys.argv[1])))
except HermesError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit()
lease.sign(Holder(what="/some/models"))
print(list(lease.gpus or ()), flush=True)
time.sleep(float(sys.argv[2]))
"""
SERVE = """
import sys, json, time
from hermes.aeriel.serve import serve
wanted = json.loads(sys.argv[2])
with serve(sys.argv[1], ports="auto", wait=True, stop_timeout_s=5, **wanted) as instance:
    print(instance.server_id, flush=True)
    while True:
        time.sleep(0.1)  # one long sleep would not end for a signal that came just before it
"""


def indices(gpus: list[GPU]) -> list[int]:
    return [gpu.index for gpu in gpus]


class TestWhich:
    @pytest.mark.parametrize(
        ("environ", "visible"),
        [
            ({}, [0, 1, 2, 3]),
            ({"CUDA_VISIBLE_DEVICES": "2,3"}, [2, 3]),
            ({"CUDA_VISIBLE_DEVICES": "GPU-1111-abcd, GPU-3333"}, [1, 3]),
            ({"CUDA_VISIBLE_DEVICES": ""}, []),
            ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
            ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, [0, 1]),
            ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "1"}, [1]),
            ({"SLURM_JOB_ID": "7"}, []),
            ({"_CONDOR_SLOT": "slot1", "CUDA_VISIBLE_DEVICES": "GPU-2222-abcd"}, [2]),
            ({"_CONDOR_SLOT": "slot1"}, []),
            ({"PBS_JOBID": "7.host"}, [0, 1, 2, 3]),
        ],
    )
    def test_any_gpu_means_any_that_the_job_or_the_caller_left(
        self, environ: Mapping[str, str], visible: list[int]
    ) -> None:
        assert indices(visible_gpus(GPUS, environ)) == visible

    def test_named_gpus_are_global(self) -> None:
        environ = {"CUDA_VISIBLE_DEVICES": "2,3"}
        assert indices(named_gpus([0, "GPU-3333-abcd"], GPUS, environ)) == [0, 3]

    @pytest.mark.parametrize(
        ("environ", "problem"),
        [
            ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, "does not belong to this batch"),
            ({"SLURM_JOB_ID": "7"}, "does not belong to this batch"),
        ],
    )
    def test_a_batch_job_has_its_own_gpus_only(
        self, environ: Mapping[str, str], problem: str
    ) -> None:
        with pytest.raises(ParameterError, match=problem):
            named_gpus([2], GPUS, environ)

    def test_a_gpu_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(ParameterError, match="no GPU 7; this machine has GPU 0 "):
            named_gpus([7], GPUS, {})

    def test_part_of_a_gpu_is_named_by_its_uuid(self) -> None:
        assert [gpu.uuid for gpu in named_gpus(["MIG-12ab"], GPUS, {})] == ["MIG-12ab"]

    @pytest.mark.parametrize(
        ("request_", "problem"),
        [
            ({"gpus": (0,), "n_gpus": 1}, "goes without gpus"),
            ({"n_gpus": -1}, "is not a number of GPUs"),
            ({"gpus": (0, 0)}, "names a GPU twice"),
            ({"gpus": ("zero",)}, "is neither an index"),
            ({"gpus": (-1,)}, "is neither an index"),
        ],
    )
    def test_requests_that_cannot_be_right(
        self, request_: Mapping[str, object], problem: str
    ) -> None:
        with pytest.raises(ParameterError, match=problem):
            GPURequest(**request_)  # type: ignore[arg-type]

    def test_the_environment_names_them_in_everybodys_order(self) -> None:
        wanted = {"CUDA_VISIBLE_DEVICES": "2,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert gpu_environment([2, 0]) == wanted
        assert gpu_environment([])["CUDA_VISIBLE_DEVICES"] == ""
        assert gpu_environment(None) == {}


class Host:
    """A machine with two GPUs, and processes that want them."""

    def __init__(self, directory: Path) -> None:
        self.leases = directory / "leases"
        self._gpus = directory / "gpus.json"
        self.compute()
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{STAND_IN}:{SOURCE}",
            "FAKE_GPUS": str(self._gpus),
            "HERMES_GPU_LEASES": str(self.leases),
        }
        self._started: list[subprocess.Popen[str]] = []

    def compute(self, *processes: int) -> None:
        """Let processes compute on GPU 0."""
        gpus = [{"uuid": "GPU-0000-a", "processes": list(processes)}, {"uuid": "GPU-1111-b"}]
        self._gpus.write_text(json.dumps([*gpus, {"uuid": "GPU-2222-c", "lost": True}]))

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def take(self, for_s: float = 60.0, user: int | None = None, **request: object) -> str:
        """Take GPUs in a process of its own; return what it says."""
        uid = os.getuid() if user is None else user
        return line(self.start(TAKE, json.dumps(request), str(for_s), str(uid)))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process that was started last."""
        process = self._started[-1]
        process.send_signal(number)
        process.wait(20)

    def finish(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.finish()


class TestLease:
    def test_a_gpu_has_one_holder_who_is_named_to_others(self, host: Host) -> None:
        assert host.take(gpus=[0]) == "[0]"
        refused = host.take(gpus=[0, 1])
        assert refused.startswith("GPUBusyError wanted GPU 0 (GPU-0000-a), GPU 1 (GPU-1111-b), but")
        assert "GPU 0 (GPU-0000-a) is held by the server of /some/models (process " in refused
        assert host.take(gpus=[1]) == "[1]"  # those refused hold nothing

    def test_a_holder_who_has_only_just_come_is_named_too(self, host: Host) -> None:
        signs_late = TAKE.replace("lease.sign", "print(flush=True); time.sleep(0.3); lease.sign")
        assert line(host.start(signs_late, '{"gpus": [0]}', "60", str(os.getuid()))) == ""
        assert "is held by the server of /some/models (process " in host.take(gpus=[0])

    def test_a_gpu_is_one_under_all_its_names(self, host: Host) -> None:
        assert host.take(gpus=["GPU-0000-a"]) == "['GPU-0000-a']"
        assert host.take(gpus=[0]).startswith("GPUBusyError")

    def test_a_lease_goes_with_its_holder(self, host: Host) -> None:
        assert host.take(gpus=[0]) == "[0]"
        host.kill()
        assert host.take(gpus=[0]) == "[0]"

    def test_any_gpu_is_one_that_nobody_has(self, host: Host) -> None:
        assert host.take(n_gpus=1) == "['GPU-0000-a']"
        assert host.take(n_gpus=1) == "['GPU-1111-b']"
        assert host.take(n_gpus=1).startswith("GPUBusyError wanted 1 of 2 GPUs")

    def test_a_gpu_on_which_somebody_computes_is_not_free(self, host: Host) -> None:
        host.compute(4711)
        assert host.take(n_gpus=1) == "['GPU-1111-b']"
        assert "GPU 0 (GPU-0000-a) is held by process 4711" in host.take(n_gpus=1)

    def test_who_names_a_gpu_gets_it_whoever_computes_there(self, host: Host) -> None:
        host.compute(4711)
        assert host.take(gpus=[0]) == "[0]"

    def test_more_gpus_than_there_are_is_an_error_for_good(self, host: Host) -> None:
        assert host.take(n_gpus=3) == "ParameterError n_gpus: 3 of the 2 GPUs that are visible here"

    def test_no_gpu_can_always_be_had(self, host: Host) -> None:
        assert host.take(gpus=[]) == "[]"
        assert host.take(n_gpus=0) == "[]"
        assert host.take() == "[]"

    def test_a_race_has_one_winner(self, host: Host) -> None:
        wanted = [json.dumps({"gpus": [0, 1]}), "30", str(os.getuid())]
        racers = [host.start(TAKE, *wanted) for _ in range(5)]
        assert sorted(line(racer)[:5] for racer in racers) == ["GPUBu"] * 4 + ["[0, 1"]


@pytest.mark.root
class TestOtherUsers:
    @pytest.fixture
    def host(self) -> Iterator[Host]:
        """A machine whose files everybody reaches."""
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            Path(directory).chmod(0o755)
            host = Host(Path(directory))
            yield host
            host.finish()

    def test_users_share_the_leases(self, host: Host) -> None:
        assert host.take(gpus=[0]) == "[0]"
        assert "user root" in host.take(gpus=[0], user=NOBODY)
        assert host.take(gpus=[1], user=NOBODY) == "[1]"
        assert "user nobody" in host.take(gpus=[1])

    def test_a_file_of_another_user_can_be_locked(self, host: Host) -> None:
        assert host.take(gpus=[0]) == "[0]"
        host.kill()
        assert host.take(gpus=[0], user=NOBODY) == "[0]"

    def test_a_planted_link_is_refused(self, host: Host, tmp_path: Path) -> None:
        assert host.take(for_s=0, gpus=[1]) == "[1]"
        treasure = tmp_path / "treasure"
        treasure.write_text("gold")
        (host.leases / "GPU-0000-a").symlink_to(treasure)
        assert "cannot be locked" in host.take(gpus=[0])
        assert treasure.read_text() == "gold"

    def test_a_directory_in_which_users_could_harm_each_other_is_refused(self, host: Host) -> None:
        host.leases.mkdir()
        host.leases.chmod(0o777)
        assert "is not a directory with mode 1777" in host.take(gpus=[0])

    def test_what_others_wrote_is_not_believed(self, host: Host) -> None:
        assert host.take(gpus=[0]) == "[0]"
        host.kill()
        for text in (
            "",
            "[]",
            "{",
            '{"pid": "x"}',
            '{"what": 1, "pid": 2, "user": 3, "state": {}}',
        ):
            (host.leases / "GPU-0000-a").write_text(text)
            assert host.take(gpus=[0]) == "[0]"
            host.kill()


def until(happened: Callable[[], object], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def server_runs(server_id: str) -> bool:
    return any(is_tritonserver(command) for command in server_processes(server_id).values())


@pytest.mark.usefixtures("triton_home")
class TestServer:
    def test_a_server_holds_its_gpus_for_as_long_as_it_lives_however_that_ends(
        self, host: Host, doubler: Path
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            server_id = line(host.start(SERVE, str(doubler), json.dumps({"gpus": [0]})))
            (pid,) = (p for p, c in server_processes(server_id).items() if is_tritonserver(c))
            assert b"\0CUDA_VISIBLE_DEVICES=0\0" in Path(f"/proc/{pid}/environ").read_bytes()
            busy = line(host.start(SERVE, str(doubler), json.dumps({"gpus": [0]})))
            assert busy == ""
            owner = host._started[-2]
            owner.send_signal(number)
            owner.wait(20)
            while host.take(for_s=0, gpus=[0]) != "[0]":
                time.sleep(0.05)
            assert not server_runs(server_id)  # the guard kept the lease until then

    def test_a_server_can_wait_for_its_gpu(self, host: Host, doubler: Path) -> None:
        assert host.take(for_s=3, gpus=[0]) == "[0]"
        wanted = {"gpus": [0], "gpu_timeout_s": 20}
        server_id = line(host.start(SERVE, str(doubler), json.dumps(wanted)))
        assert server_runs(server_id)
        host.kill(signal.SIGINT)
        until(lambda: not server_processes(server_id))

    def test_a_server_on_any_gpus_sees_those(self, host: Host, doubler: Path) -> None:
        host.compute(4711)
        server_id = line(host.start(SERVE, str(doubler), json.dumps({"n_gpus": 1})))
        (pid,) = (p for p, c in server_processes(server_id).items() if is_tritonserver(c))
        assert b"\0CUDA_VISIBLE_DEVICES=GPU-1111-b\0" in Path(f"/proc/{pid}/environ").read_bytes()
        host.kill(signal.SIGINT)
        until(lambda: not server_processes(server_id))
