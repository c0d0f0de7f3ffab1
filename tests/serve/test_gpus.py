"""GPUs: which a server may use, and the locks that keep others from them.

There is no GPU here, so one library is a stand-in (tests/environment/gpus): what the driver says.
Processes, locks, kills and servers are real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes._processes import is_tritonserver, server_processes
from hermes.aeriel.serve._gpu_locks import (
    LOCKED,
    NOTES,
    Holder,
    Locks,
    is_locked,
    newest_note,
)
from hermes.aeriel.serve._gpu_names import (
    claimed_gpus,
    cuda_devices,
    named_gpus,
    order_doubt,
    visible_gpus,
)
from hermes.aeriel.serve._gpus import GPU, GPURequest, gpu_environment
from hermes.errors import ParameterError

SOURCE = Path(__file__).resolve().parents[2]
STAND_IN = SOURCE / "tests" / "environment" / "gpus"
GPUS = [GPU(index=index, uuid=f"GPU-{index}{index}{index}{index}-abcd") for index in range(4)]
NOBODY = 65534


def part(index: int, number: int) -> GPU:
    whole = GPUS[index].uuid
    return GPU(
        index=index,
        uuid=f"MIG-{index}a{number}",
        whole=whole,
        alias=f"MIG-{whole}/{number}/0",
    )


# GPU 1 is divided in two, GPU 2 is divided and has no parts yet.
DIVIDED = [
    GPUS[0],
    GPU(index=1, uuid=GPUS[1].uuid, parts=(part(1, 1), part(1, 2))),
    GPU(index=2, uuid=GPUS[2].uuid, parts=()),
]

TAKE = """
import logging, os, sys, json, time
from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._leases import Holder, lease_gpus
from hermes.errors import HermesError
os.setuid(int(sys.argv[3]))
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
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


def uuids(gpus: list[GPU]) -> list[str]:
    return [gpu.uuid for gpu in gpus]


class TestCudaDevices:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("2,3", [2, 3]),
            ("3, 1", [3, 1]),
            ("0,-1,1", [0]),
            ("0,4,1", [0]),
            ("1,,2", [1]),
            ("-1", []),
            ("", []),
            ("NoDevFiles", []),
            ("10000", []),
            ("0,0", []),
            ("1,GPU-1111", []),
            ("+1,2nd", [1, 2]),
            ("007", []),
            ("GPU-1111-abcd,GPU-3333", [1, 3]),
            ("GPU-1,GPU-7,GPU-3", [1]),
            ("GPU-,0", []),
            ("gpu-1111-abcd", []),
        ],
    )
    def test_names_count_up_to_the_first_that_is_none(self, text: str, shown: list[int]) -> None:
        assert indices(cuda_devices(text, GPUS)) == shown

    def test_the_beginning_of_two_uuids_names_neither(self) -> None:
        twins = [GPU(index=0, uuid="GPU-ab12"), GPU(index=1, uuid="GPU-ab34")]
        assert uuids(cuda_devices("GPU-ab3,GPU-ab", twins)) == ["GPU-ab34"]

    def test_a_part_has_two_names(self) -> None:
        assert uuids(cuda_devices("MIG-1a2", DIVIDED)) == ["MIG-1a2"]
        assert uuids(cuda_devices("MIG-GPU-1111-abcd/2/0", DIVIDED)) == ["MIG-1a2"]

    @given(st.text(alphabet="0123456789,-+ GPUMIG/abcdef\u00b2\u0663", max_size=40))
    def test_whatever_stands_there_is_read_without_an_error(self, text: str) -> None:
        shown = cuda_devices(text, DIVIDED)
        assert len(set(shown)) == len(shown)
        assert set(shown) <= {*DIVIDED, part(1, 1), part(1, 2)}

    @given(st.lists(st.sampled_from(range(4)), unique=True), st.text(max_size=10))
    def test_what_follows_a_name_that_is_none_changes_nothing(
        self, order: list[int], rest: str
    ) -> None:
        for names in (map(str, order), (GPUS[index].uuid for index in order)):
            assert indices(cuda_devices(",".join([*names, "none", rest]), GPUS)) == order

    @given(st.integers(min_value=4))
    def test_an_index_out_of_range_is_none(self, number: int) -> None:
        assert indices(cuda_devices(f"2,{number},1", GPUS)) == [2]


class TestWhich:
    @pytest.mark.parametrize(
        ("environ", "visible"),
        [
            ({}, [0, 1, 2, 3]),
            ({"CUDA_VISIBLE_DEVICES": "2,3"}, [2, 3]),
            ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, [0]),
            ({"CUDA_VISIBLE_DEVICES": ""}, []),
            ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, [0, 1]),
            ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "1"}, [1]),
            ({"SLURM_JOB_ID": "7", "SLURM_STEP_GPUS": "1,3"}, [1, 3]),
            ({"SLURM_JOB_ID": "7", "SLURM_STEP_GPUS": "1", "SLURM_JOB_GPUS": "1,3"}, [1]),
            ({"SLURM_JOB_ID": "7"}, []),
            ({"_CONDOR_SLOT": "slot1", "CUDA_VISIBLE_DEVICES": "GPU-2222-abcd"}, [2]),
            ({"_CONDOR_SLOT": "slot1", "_CONDOR_AssignedGPUs": "GPU-2222, GPU-3333"}, [2, 3]),
            ({"_CONDOR_SLOT": "slot1", "_CONDOR_AssignedGPUs": "CUDA1"}, [1]),
            ({"_CONDOR_SLOT": "slot1", "CUDA_VISIBLE_DEVICES": "10000"}, []),
            ({"_CONDOR_SLOT": "slot1"}, []),
            ({"PBS_JOBID": "7.host"}, [0, 1, 2, 3]),
            ({"PBS_JOBID": "7.host", "CUDA_VISIBLE_DEVICES": "3"}, [3]),
        ],
    )
    def test_any_gpu_means_any_that_the_job_or_the_caller_left(
        self, environ: Mapping[str, str], visible: list[int]
    ) -> None:
        assert indices(visible_gpus(GPUS, environ)) == visible

    def test_numbers_of_the_host_mean_what_the_driver_shows_where_it_shows_no_others(self) -> None:
        environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "2,3"}
        assert indices(visible_gpus(GPUS[:2], environ)) == [0, 1]
        assert indices(named_gpus([1], GPUS[:2], environ)) == [1]

    def test_named_gpus_are_global(self) -> None:
        environ = {"CUDA_VISIBLE_DEVICES": "2,3"}
        assert indices(named_gpus([0, "GPU-3333-abcd"], GPUS, environ)) == [0, 3]

    @pytest.mark.parametrize(
        "environ",
        [
            {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"},
            {"SLURM_JOB_ID": "7"},
            {"_CONDOR_SLOT": "slot1", "_CONDOR_AssignedGPUs": "GPU-1111"},
        ],
    )
    def test_a_batch_job_has_its_own_gpus_only(self, environ: Mapping[str, str]) -> None:
        with pytest.raises(ParameterError, match="does not belong to this batch job, which has "):
            named_gpus([2], GPUS, environ)

    def test_a_gpu_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(ParameterError, match="no GPU 7; this machine has GPU 0 "):
            named_gpus([7], GPUS, {})

    def test_a_gpu_is_named_once(self) -> None:
        with pytest.raises(ParameterError, match=r"names GPU 0 .* twice"):
            named_gpus([0, "GPU-0000-abcd"], GPUS, {})

    @pytest.mark.parametrize(
        ("environ", "claimed"),
        [
            ({}, None),
            ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
            ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "2"}, [2]),
            ({"PBS_JOBID": "7.host"}, None),
        ],
    )
    def test_what_is_claimed_is_named_by_somebody(
        self, environ: Mapping[str, str], claimed: list[int] | None
    ) -> None:
        found = claimed_gpus(GPUS, environ)
        assert (None if found is None else indices(found)) == claimed

    @pytest.mark.parametrize(
        ("request_", "problem"),
        [
            ({"gpus": (0,), "n_gpus": 1}, "give gpus or n_gpus, not both"),
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
            GPURequest(**request_)  # type: ignore[arg-type] # wrong ones, on purpose

    def test_the_environment_names_them_in_everybodys_order(self) -> None:
        wanted = {"CUDA_VISIBLE_DEVICES": "2,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert gpu_environment([2, 0]) == wanted
        assert gpu_environment([])["CUDA_VISIBLE_DEVICES"] == ""
        assert gpu_environment(None) == {}


class TestDivided:
    """Parts of GPUs (MIG)."""

    def test_parts_are_visible_in_place_of_what_is_divided(self) -> None:
        assert uuids(visible_gpus(DIVIDED, {})) == ["GPU-0000-abcd", "MIG-1a1", "MIG-1a2"]

    @pytest.mark.parametrize("name", ["MIG-1a2", "MIG-GPU-1111-abcd/2/0"])
    def test_a_job_may_have_a_part(self, name: str) -> None:
        environ = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": name}
        assert uuids(visible_gpus(DIVIDED, environ)) == ["MIG-1a2"]
        assert uuids(named_gpus(["MIG-1a2"], DIVIDED, environ)) == ["MIG-1a2"]
        with pytest.raises(ParameterError, match="does not belong to this batch job"):
            named_gpus(["MIG-1a1"], DIVIDED, environ)
        with pytest.raises(ParameterError, match="does not belong to this batch job"):
            named_gpus([1], DIVIDED, environ)

    def test_who_has_the_whole_has_its_parts(self) -> None:
        environ = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1"}
        assert uuids(named_gpus(["MIG-1a1"], DIVIDED, environ)) == ["MIG-1a1"]

    def test_a_part_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(ParameterError, match=r"no GPU MIG-99; .* part of GPU 1 \(MIG-1a1\)"):
            named_gpus(["MIG-99"], DIVIDED, {})

    @pytest.mark.parametrize("names", [["MIG-1a1", "MIG-1a2"], [0, "MIG-1a1"], [1, "MIG-1a1"]])
    def test_cuda_shows_a_part_to_a_process_only_alone(self, names: list[int | str]) -> None:
        with pytest.raises(ParameterError, match=r"a single part of a GPU \(MIG\) and no other"):
            named_gpus(names, DIVIDED, {})


class TestOrder:
    MIXED = (GPU(index=0, uuid="GPU-0", model="A100"), GPU(index=1, uuid="GPU-1", model="T4"))

    @pytest.mark.parametrize(
        ("environ", "is_doubtful"),
        [
            ({}, False),
            ({"CUDA_VISIBLE_DEVICES": "0"}, True),
            ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, True),
            ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, False),
            ({"CUDA_VISIBLE_DEVICES": "GPU-1"}, False),
            ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ],
    )
    def test_indices_are_doubtful_where_gpus_differ(
        self, environ: Mapping[str, str], is_doubtful: bool
    ) -> None:
        assert (order_doubt(self.MIXED, environ) is not None) == is_doubtful
        assert order_doubt(GPUS, environ) is None


class Host:
    """A machine with two GPUs, and processes that want them."""

    def __init__(self, directory: Path) -> None:
        self._gpus = directory / "gpus.json"
        # Locks are the host's: no other test may mean the same GPUs.
        mark = uuid.uuid4().hex
        self.uuids = [f"GPU-{index}{index}{index}{index}-{mark}" for index in range(3)]
        self.parts = [f"MIG-{index}-{mark}" for index in range(2)]
        self.say()
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{STAND_IN}:{SOURCE}",
            "FAKE_GPUS": str(self._gpus),
        }
        self._started: list[subprocess.Popen[str]] = []

    def say(self, *facts: Mapping[str, object]) -> None:
        """Let the driver say something of GPU 0, GPU 1 and so on; a third one is lost."""
        gpus: list[dict[str, object]] = [{"uuid": one} for one in self.uuids]
        gpus[2]["fails"] = ["nvmlDeviceGetHandleByIndex"]
        for index, fact in enumerate(facts):
            gpus[index] |= fact
        self._gpus.write_text(json.dumps(gpus))

    def divide(self) -> None:
        """Let GPU 1 have two parts."""
        self.say({}, {"parts": [{"uuid": one} for one in self.parts]})

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

    def check(self) -> dict[str, str]:
        """What `hermes check` says of GPUs, by subject; several lines of one are joined."""
        done = subprocess.run(
            [sys.executable, "-c", CHECK],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def finish(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        self._started.clear()
        for directory in NOTES.glob("hermes-gpus-*"):
            for name in (*self.uuids, *self.parts):
                (directory / name).unlink(missing_ok=True)
            with suppress(OSError):  # others have notes there
                directory.rmdir()


CHECK = """
import json
from hermes._check import _gpus
found = {}
for fact in _gpus():
    found[fact.subject] = found.get(fact.subject, "") + fact.text + ". "
print(json.dumps(found))
"""


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
        zero, one, _ = host.uuids
        assert refused.startswith(f"GPUBusyError wanted GPU 0 ({zero}), GPU 1 ({one}), but")
        assert f"GPU 0 ({zero}) is held by the server of /some/models (process " in refused

    def test_who_is_refused_holds_nothing(self, host: Host) -> None:
        assert host.take(gpus=[0]) == "[0]"
        stays = TAKE.replace("sys.exit()", "time.sleep(60)")
        refused = host.start(stays, '{"gpus": [1, 0]}', "0", str(os.getuid()))
        assert line(refused).startswith("GPUBusyError")
        assert host.take(gpus=[1]) == "[1]"

    def test_a_holder_who_has_only_just_come_is_named_too(self, host: Host) -> None:
        signs_late = (
            "import threading\n"
            "from hermes.aeriel.serve._gpus import GPURequest\n"
            "from hermes.aeriel.serve._leases import Holder, lease_gpus\n"
            "from hermes.errors import GPUBusyError\n"
            "lease = lease_gpus(GPURequest(gpus=(0,)))\n"
            "threading.Timer(0.1, lease.sign, [Holder(what='/late/models')]).start()\n"
            "try:\n"
            "    lease_gpus(GPURequest(gpus=(0,)))\n"
            "except GPUBusyError as error:\n"
            "    print(error, flush=True)\n"
        )
        assert "is held by the server of /late/models (process " in line(host.start(signs_late))

    def test_a_gpu_is_one_under_all_its_names(self, host: Host) -> None:
        assert host.take(gpus=[host.uuids[0]]) == f"['{host.uuids[0]}']"
        assert host.take(gpus=[0]).startswith("GPUBusyError")

    def test_a_lease_goes_with_its_holder(self, host: Host) -> None:
        assert host.take(gpus=[0]) == "[0]"
        host.kill()
        assert host.take(gpus=[0]) == "[0]"

    def test_any_gpu_is_one_that_nobody_has(self, host: Host) -> None:
        assert host.take(n_gpus=1) == f"['{host.uuids[0]}']"
        assert host.take(n_gpus=1) == f"['{host.uuids[1]}']"
        assert host.take(n_gpus=1).startswith("GPUBusyError wanted 1 of 2 GPUs")

    def test_more_gpus_than_there_are_is_an_error_for_good(self, host: Host) -> None:
        wanted = "ParameterError n_gpus: 3 are requested, but 2 can be used here"
        assert host.take(n_gpus=3) == wanted

    def test_no_gpu_can_always_be_had(self, host: Host) -> None:
        assert host.take(gpus=[]) == "[]"
        assert host.take(n_gpus=0) == "[]"
        assert host.take() == "[]"
        assert host.take(gpus=[0]) == "[0]"

    def test_a_race_has_one_winner(self, host: Host) -> None:
        wanted = [json.dumps({"gpus": [0, 1]}), "30", str(os.getuid())]
        racers = [host.start(TAKE, *wanted) for _ in range(5)]
        assert sorted(line(racer)[:5] for racer in racers) == ["GPUBu"] * 4 + ["[0, 1"]

    def test_who_named_no_gpus_shares_those_that_the_environment_names(self, host: Host) -> None:
        host.environment["CUDA_VISIBLE_DEVICES"] = "1"
        assert host.take() == "[]"
        assert host.take() == "[]"
        assert host.take(gpus=[1]).startswith("GPUBusyError")
        del host.environment["CUDA_VISIBLE_DEVICES"]
        assert host.take(n_gpus=2).startswith("GPUBusyError")
        assert host.take(gpus=[0]) == "[0]"

    def test_nothing_is_shared_with_who_named_a_gpu(self, host: Host) -> None:
        assert host.take(gpus=[1]) == "[1]"
        host.environment["CUDA_VISIBLE_DEVICES"] = "1"
        assert "GPU 1 " in host.take()

    def test_looking_at_leases_takes_none(self, host: Host) -> None:
        look = (
            "import sys, time\n"
            "from hermes.aeriel.serve._leases import gpu_holders\n"
            "from hermes.aeriel.serve._nvml import list_gpus\n"
            "print(len(gpu_holders(list_gpus())), flush=True)\n"
            "while True: gpu_holders(list_gpus())"
        )
        assert line(host.start(look)) == "0"
        takes = (
            "from hermes.aeriel.serve._gpus import GPURequest\n"
            "from hermes.aeriel.serve._leases import lease_gpus\n"
            "for _ in range(300): lease_gpus(GPURequest(gpus=(0, 1))).close()\n"
            "print('never refused', flush=True)"
        )
        assert line(host.start(takes)) == "never refused"

    def test_only_who_did_not_end_well_is_remembered(self, host: Host) -> None:
        remembers = (
            "from hermes.aeriel.serve._gpus import GPURequest\n"
            "from hermes.aeriel.serve._leases import Holder, lease_gpus\n"
            "lease = lease_gpus(GPURequest(gpus=(0,)))\n"
            "print(*lease.last_holders, flush=True)\n"
            "lease.sign(Holder(what='/others'))\n"
            "lease.close()\n"
        )
        assert host.take(gpus=[0]) == "[0]"
        host.kill()
        assert line(host.start(remembers)).startswith("the server of /some/models (process ")
        host._started[-1].wait(20)
        assert line(host.start(remembers)) == ""

    def test_gpus_are_held_for_a_block_under_the_name_of_their_holder(self, host: Host) -> None:
        holds = (
            "import os, sys\n"
            "from hermes.aeriel.serve._gpus import GPURequest\n"
            "from hermes.aeriel.serve._leases import Holder, hold_gpus\n"
            "holder = Holder(what='/held/models')\n"
            "with hold_gpus(GPURequest(gpus=(0,)), holder, 0) as lease:\n"
            "    print(lease.gpus, len(lease.descriptors), *lease.notes, flush=True)\n"
            "    sys.stdin.readline()\n"
            "print(len(lease.descriptors), *map(os.path.exists, lease.notes), flush=True)\n"
            "sys.stdin.readline()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", holds],
            env=host.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        host._started.append(process)
        note = NOTES / f"hermes-gpus-{os.getuid()}" / host.uuids[0]
        assert line(process) == f"(0,) 1 {note}"
        assert "is held by the server of /held/models (process " in host.take(gpus=[0])
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line(process) == "0 False"
        assert host.take(gpus=[0]) == "[0]"

    def test_nothing_that_is_removed_from_tmp_matters(self, host: Host) -> None:
        """Cleaners take what is 10 days old."""
        assert host.take(gpus=[0]) == "[0]"
        (NOTES / f"hermes-gpus-{os.getuid()}" / host.uuids[0]).unlink()
        assert "is held by an unknown process" in host.take(gpus=[0])


class TestLocks:
    def test_a_lock_ends_with_the_last_who_has_it_open(self) -> None:
        gpu = str(uuid.uuid4())
        locks = Locks()
        assert locks.take(gpu)
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE,
            pass_fds=(locks.descriptor,),
        )
        os.close(locks.descriptor)
        assert is_locked(gpu)
        child.communicate(b"\n")
        assert not is_locked(gpu)

    def test_a_child_that_was_forked_meanwhile_keeps_nothing(self) -> None:
        gpu = str(uuid.uuid4())
        locks = Locks()
        assert locks.take(gpu)
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE,
            pass_fds=(locks.descriptor,),
        )
        locks.close()
        assert not is_locked(gpu)
        child.communicate(b"\n")

    def test_two_locks_of_one_process_exclude_each_other(self) -> None:
        gpu = str(uuid.uuid4())
        first, second = Locks(), Locks()
        assert first.take(gpu, shared=True)
        assert second.take(gpu, shared=True)
        assert not second.take(gpu)
        first.close()
        assert second.take(gpu)
        second.close()

    def test_one_of_several_locks_is_given_back(self) -> None:
        first, second = str(uuid.uuid4()), str(uuid.uuid4())
        locks = Locks()
        assert locks.take(first)
        assert locks.take(second)
        locks.release(first)
        assert not is_locked(first)
        assert is_locked(second)
        locks.close()

    def test_no_file_stays_open(self) -> None:
        before = set(Path("/proc/self/fd").iterdir())
        locks = Locks()
        assert locks.take(gpu := str(uuid.uuid4()))
        assert is_locked(gpu)
        locks.close()
        assert set(Path("/proc/self/fd").iterdir()) == before

    def test_what_is_locked_is_roots_and_open_to_all(self) -> None:
        status = Path(LOCKED).stat()
        assert status.st_uid == 0
        assert status.st_mode & 0o666 == 0o666


class TestDriver:
    """What the driver says, and does not say."""

    def test_a_gpu_on_which_somebody_computes_is_not_free(self, host: Host) -> None:
        host.say({"processes": [4711]})
        assert host.take(n_gpus=1) == f"['{host.uuids[1]}']"
        assert f"GPU 0 ({host.uuids[0]}) is held by process 4711" in host.take(n_gpus=1)

    def test_who_names_a_gpu_gets_it_whoever_computes_there(self, host: Host) -> None:
        host.say({"processes": [4711], "used": 1 << 34})
        assert host.take(gpus=[0]) == "[0]"

    def test_memory_in_use_tells_of_processes_that_are_not_visible(self, host: Host) -> None:
        host.say({"used": 500 << 20})
        assert host.take(n_gpus=1) == f"['{host.uuids[1]}']"
        refused = host.take(n_gpus=1)
        assert "held by a process that is not visible here (500 MiB are in use)" in refused

    def test_a_screen_is_no_use_of_a_gpu(self, host: Host) -> None:
        host.say({"used": 500 << 20, "graphics": [400 << 20, 90 << 20]})
        assert host.take(n_gpus=1) == f"['{host.uuids[0]}']"

    def test_what_the_driver_does_not_answer_takes_no_gpu_away(self, host: Host) -> None:
        script = (
            "import json, os, sys\n"
            "from hermes.aeriel.serve._nvml import list_gpus\n"
            "for question in json.loads(sys.argv[1]):\n"
            "    gpu = {'uuid': 'GPU-0', 'fails': [question]}\n"
            "    open(os.environ['FAKE_GPUS'], 'w').write(json.dumps([gpu]))\n"
            "    print(*list_gpus(), flush=True)\n"
        )
        questions = [
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetGraphicsRunningProcesses",
            "nvmlDeviceGetMemoryInfo",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetName",
            "nvmlDeviceGetComputeMode",
            "nvmlDeviceGetMigMode",
            "nvmlDeviceGetMaxMigDeviceCount",
        ]
        listing = host.start(script, json.dumps(questions))
        for question in questions:
            assert line(listing) == "GPU 0 (GPU-0)", question

    def test_unknown_processes_leave_a_gpu_free(self, host: Host) -> None:
        fails = ["nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMemoryInfo"]
        host.say({"fails": [*fails, "nvmlDeviceGetMemoryInfo_v2"]})
        assert host.take(n_gpus=1) == f"['{host.uuids[0]}']"

    @pytest.mark.parametrize(
        ("mode", "problem"), [(2, "prohibits computing"), (3, "allows one process at a time")]
    )
    def test_a_mode_in_which_no_server_works_is_refused(
        self, host: Host, mode: int, problem: str
    ) -> None:
        host.say({"mode": mode})
        wanted = f"ParameterError gpus: the compute mode of GPU 0 ({host.uuids[0]}) {problem}"
        assert host.take(gpus=[0]).startswith(wanted)
        assert "nvidia-smi -i 0 -c DEFAULT" in host.check()["gpu 0"]
        assert host.take(n_gpus=1) == f"['{host.uuids[1]}']"
        host.kill()
        assert problem in host.take(n_gpus=2)
        host.environment["CUDA_VISIBLE_DEVICES"] = "0"
        assert host.take().startswith(wanted)

    def test_mps_lets_several_processes_use_an_exclusive_gpu(
        self, host: Host, tmp_path: Path
    ) -> None:
        host.say({"mode": 3})
        (tmp_path / "control").touch()
        host.environment["CUDA_MPS_PIPE_DIRECTORY"] = str(tmp_path)
        assert host.take(gpus=[0]) == "[0]"

    def test_gpus_without_a_driver_are_warned_of(self, host: Host) -> None:
        host.environment["FAKE_GPUS"] = ""
        taken = host.start(TAKE, '{"gpus": [0]}', "0", str(os.getuid()))
        wanted = "WARNING gpus=0 was requested, but NVIDIA's driver cannot be used here (NVML"
        assert line(taken).startswith(wanted)
        assert line(taken) == "[0]"
        assert "models run on the CPU, whatever --gpus says" in host.check()["gpu"]
        assert host.take(gpus=[]) == "[]"
        assert host.take() == "[]"

    def test_an_order_in_doubt_is_warned_of(self, host: Host) -> None:
        host.say({"name": "A100"}, {"name": "T4"})
        host.environment["CUDA_VISIBLE_DEVICES"] = "1"
        assert host.take().startswith("WARNING hermes reads CUDA_VISIBLE_DEVICES=1 in the order of")
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in host.check()["gpu"]
        host.kill()
        assert host.take(n_gpus=1).startswith("WARNING hermes reads CUDA_VISIBLE_DEVICES=1 in the")
        host.kill()
        assert host.take(n_gpus=0) == "[]"
        host.environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        assert host.take() == "[]"

    def test_holders_are_listed(self, host: Host) -> None:
        assert host.check()["gpu 0"].endswith(": free. ")
        assert host.take(gpus=[0]) == "[0]"
        assert "the server of /some/models (process " in host.check()["gpu 0"]
        assert host.check()["gpu 1"].endswith(": free. ")


class TestParts:
    @pytest.fixture
    def divided(self, host: Host) -> Host:
        host.divide()
        return host

    def test_parts_are_leased_apart(self, divided: Host) -> None:
        first, second = divided.parts
        assert divided.take(gpus=[first]) == f"['{first}']"
        assert divided.take(gpus=[first]).startswith("GPUBusyError")
        assert divided.take(gpus=[second]) == f"['{second}']"

    def test_a_part_and_its_whole_exclude_each_other(self, divided: Host) -> None:
        first = divided.parts[0]
        assert divided.take(gpus=[first]) == f"['{first}']"
        refused = divided.take(gpus=[1])
        assert "is held by the server of /some/models (process " in refused
        divided._started[0].kill()
        divided._started[0].wait(20)
        assert divided.take(gpus=[1]) == "[1]"
        assert "is held by the server of /some/models (process " in divided.take(gpus=[first])
        assert "the server of /some/models" in divided.check()["gpu 1"]

    def test_any_gpu_may_be_a_part(self, divided: Host) -> None:
        first, second = divided.parts
        divided.environment |= {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": f"{first},{second}"}
        assert divided.take(n_gpus=1) == f"['{first}']"
        assert divided.take(n_gpus=1) == f"['{second}']"
        assert divided.take(n_gpus=1).startswith("GPUBusyError")
        assert "a single part of a GPU (MIG) and no other" in divided.take(n_gpus=2)

    def test_a_part_that_is_refused_leaves_its_whole_free(self, host: Host) -> None:
        first, second = host.parts
        host.say({"parts": [{"uuid": first}]}, {"parts": [{"uuid": second}]})
        assert host.take(gpus=[first]) == f"['{first}']"
        job = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": f"{first},{second}"}
        alone = dict(host.environment)
        host.environment |= job
        assert host.take(n_gpus=1) == f"['{second}']"
        host.environment = alone
        host._started[0].kill()
        host._started[0].wait(20)
        assert host.take(gpus=[0]) == "[0]"

    def test_whole_gpus_come_first(self, divided: Host) -> None:
        assert divided.take(n_gpus=1) == f"['{divided.uuids[0]}']"

    def test_a_part_in_the_environment_is_shared(self, divided: Host) -> None:
        divided.environment["CUDA_VISIBLE_DEVICES"] = divided.parts[1]
        assert divided.take() == "[]"
        assert divided.take() == "[]"
        del divided.environment["CUDA_VISIBLE_DEVICES"]
        assert divided.take(gpus=[divided.parts[1]]).startswith("GPUBusyError")
        assert divided.take(gpus=[1]).startswith("GPUBusyError")
        assert divided.take(gpus=[divided.parts[0]]) == f"['{divided.parts[0]}']"


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

    @pytest.mark.parametrize("user", [0, NOBODY])
    def test_no_user_is_in_anothers_way(self, host: Host, user: int) -> None:
        """Neither what another user made before, nor what he holds no longer, matters."""
        for each in (user, NOBODY - user, user):
            assert host.take(gpus=[0], user=each) == "[0]"
            host.kill()

    def test_what_another_user_plants_is_neither_written_nor_believed(self, host: Host) -> None:
        """A directory of ours that is his, a link in his directory, his claim to be root."""
        uid = 4711
        ours, his = NOTES / f"hermes-gpus-{uid}", NOTES / f"hermes-gpus-{NOBODY}"
        treasure = Path(tempfile.mkdtemp(dir="/tmp"))
        try:
            for directory in (ours, his):
                directory.mkdir(exist_ok=True)
                os.chown(directory, NOBODY, NOBODY)
            claim = {"what": "\x1b[31mthe moon", "pid": 1, "user": "root", "state": ""}
            for directory in (ours, his):
                (directory / host.uuids[0]).write_text(json.dumps(claim))
                os.chown(directory / host.uuids[0], NOBODY, NOBODY)
            (his / host.uuids[1]).symlink_to(treasure / "gold")
            started = host.start(TAKE, '{"gpus": [0, 1]}', "60", str(uid))
            assert "belongs to another user" in line(started)
            assert "belongs to another user" in line(started)
            assert line(started) == "[0, 1]"
            refused = host.take(gpus=[0])
            assert "the server of ?[31mthe moon (process 1, user nobody)" in refused
            assert "is held by an unknown process" in host.take(gpus=[1])
            assert not list(treasure.iterdir())
            os.chown(his / host.uuids[0], 0, 0)  # his directory has what root wrote
            assert "is held by an unknown process" in host.take(gpus=[0])
        finally:
            shutil.rmtree(treasure)
            shutil.rmtree(ours)
            host.finish()
            shutil.rmtree(his, ignore_errors=True)

    def test_what_others_wrote_may_be_anything(self, host: Host) -> None:
        note = NOTES / f"hermes-gpus-{os.getuid()}" / host.uuids[0]
        assert host.take(for_s=0, gpus=[0]) == "[0]"
        assert str(newest_note(host.uuids[0])).startswith("the server of /some/models (process ")
        for text in ("", "[]", "{", '{"pid": "x"}', "[" * 4000, '{"what": 1, "pid": 2}', "\0\xff"):
            note.write_text(text, encoding="latin-1")
            assert newest_note(host.uuids[0]) is None, text
        note.write_text('{"what": "a", "pid": 2, "state": "/s"}')
        assert newest_note(host.uuids[0]) == Holder(what="a", pid=2, state="/s")
        note.rename(note.with_name(host.uuids[1]))
        note.symlink_to(note.with_name(host.uuids[1]))
        assert newest_note(host.uuids[0]) is None
        note.unlink()
        os.mkfifo(note)
        assert newest_note(host.uuids[0]) is None

    def test_the_newest_of_several_users_is_the_holder(self, host: Host) -> None:
        for user in (0, NOBODY, 0):
            name = "nobody" if user == NOBODY else "root"
            assert host.take(gpus=[0], user=user) == "[0]"
            assert f", user {name})" in host.take(gpus=[0])
            host._started[-2].kill()
            host._started[-2].wait(20)

    def test_a_user_without_a_name_and_a_directory_is_named_to_others(self, host: Host) -> None:
        uid = 4712
        directory = NOTES / f"hermes-gpus-{uid}"
        shutil.rmtree(directory, ignore_errors=True)
        strange = Path(tempfile.mkdtemp(prefix="hermes-gpus-", dir=NOTES))
        try:
            assert host.take(gpus=[0], user=uid) == "[0]"
            assert f"/some/models (process {host._started[-1].pid}, user {uid})" in host.take(
                gpus=[0], user=NOBODY
            )
        finally:
            host.finish()
            shutil.rmtree(strange, ignore_errors=True)

    def test_who_cannot_write_that_it_holds_a_gpu_holds_it(self, host: Host) -> None:
        uid = 4713
        file = NOTES / f"hermes-gpus-{uid}"
        file.touch()
        try:
            started = host.start(TAKE, '{"gpus": [0]}', "60", str(uid))
            assert line(started).startswith(f"WARNING cannot record the holder of {host.uuids[0]}")
            assert line(started) == "[0]"
            assert "is held by an unknown process" in host.take(gpus=[0])
        finally:
            file.unlink()


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
        host.say({"processes": [4711]})
        server_id = line(host.start(SERVE, str(doubler), json.dumps({"n_gpus": 1})))
        (pid,) = (p for p, c in server_processes(server_id).items() if is_tritonserver(c))
        shown = f"\0CUDA_VISIBLE_DEVICES={host.uuids[1]}\0".encode()
        assert shown in Path(f"/proc/{pid}/environ").read_bytes()
        host.kill(signal.SIGINT)
        until(lambda: not server_processes(server_id))
