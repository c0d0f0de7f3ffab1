"""A real pipeline, again and again, with something going wrong at a random moment.

    python -m tests.chaos.chaos --runs 200 --seed 1            # the local runtime
    python -m tests.chaos.chaos --runs 50 --image triton.sif   # containers

After each fault nothing may be left (processes, container instances, shared memory, states,
temporary and half-written files), and running the pipeline again has to end with the right bytes.
A line per kind of fault is printed at the end, and the exit code is 1 if any of it did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from hermes._state_files import facts_of

ROOT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = Path("/dev/shm")
CLEAN_WITHIN_S = 10.0
PIPELINE_TIMEOUT_S = 240.0
ROWS = (320, 1, 200)

CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [ 4 ] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [ 4 ] }]
"""
MODEL = """
import time

import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.02 * len(requests))
        return [
            utils.InferenceResponse(
                [utils.Tensor("y", 2 * utils.get_input_tensor_by_name(request, "x").as_numpy())]
            )
            for request in requests
        ]
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
VICTIMS = ("driver", "worker", "supervisor", "guard", "server", "stub")
# In the same moment.
TOGETHER = (
    "supervisor+guard SIGKILL",
    "driver+supervisor SIGKILL",
    "driver+guard SIGKILL",
    "supervisor+server SIGKILL",
    "supervisor+stub SIGKILL",
    "driver+supervisor+guard SIGKILL",
    "supervisor+guard+server SIGKILL",
    "driver+worker+supervisor+guard+server+stub SIGKILL",
)
# At a moment that the log, or the server's directory, tells of.
AT_A_MOMENT = (
    "driver SIGKILL while loading",
    "supervisor+guard SIGKILL while loading",
    "stub SIGKILL while loading",
    "driver SIGKILL while waiting",
    "supervisor SIGKILL while waiting",
    "driver SIGKILL while merging",
    "worker SIGKILL while merging",
    "driver SIGKILL while reporting",
    "worker SIGKILL while reporting",
    "driver SIGHUP",
    "driver SIGINT twice",
)
OTHER_FAULTS = ("disk full", "port taken", "shared server")
WAIT_FOR_GPU_S = 15.0
# How long a stopped process stays so: longer than it takes to be found out.
STOPPED_S = 12.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run."""

    fault: str
    happened: bool
    survived: bool
    problems: tuple[str, ...]
    seconds_to_clean: float


@dataclass
class Run:
    """One pipeline in a directory of its own, whose processes can be told from all others."""

    directory: Path
    image: str | None
    options: tuple[str, ...] = ()
    output: Path = field(init=False)

    def __post_init__(self) -> None:
        self.marker = f"HERMES_CHAOS_RUN={self.directory}"
        self.output = self.directory / "results"
        self.state = self.directory / "state"
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self.gpus = self.directory / "gpus.json"
        self.gpus.write_text(json.dumps([{"uuid": f"GPU-{self.directory.name}"}]))
        self.environment = {
            **os.environ,
            "HERMES_STATE_HOME": str(self.state),
            "TMPDIR": str(self.temporary),
            "HERMES_CHAOS_RUN": str(self.directory),
            # A stand-in for NVIDIA's driver, which is looked at where GPUs are asked for.
            "PYTHONPATH": str(ROOT / "tests" / "environment" / "gpus"),
            "FAKE_GPUS": str(self.gpus),
        }

    def start(self, name: str = "results") -> subprocess.Popen[bytes]:
        """Start the pipeline."""
        image = ["--image", self.image] if self.image else []
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "luigi", "--module", "workflows.validate", "Validate"),
                    *("--model-repository", str(ROOT / "build" / "chaos" / "models")),
                    *("--model-name", "double", "--input-map", '{"x": "x"}'),
                    *("--inputs", str(ROOT / "build" / "chaos" / "data" / "*.h5")),
                    *("--target", "expected", "--metrics", "reference"),
                    *("--require", "reference >= 1", "--output-dir", str(self.directory / name)),
                    *("--workers", "3", "--local-scheduler", *image, *self.options),
                ],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> dict[int, list[str]]:
        """Return the command lines of this run's processes, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environ = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if self.marker.encode() in environ and command != [""]:
                found[int(entry.name)] = command
        return found

    def victims(self, kind: str, driver: int) -> list[int]:
        """Return the processes of a kind."""
        found = self.processes()
        is_one: dict[str, Callable[[int, list[str]], bool]] = {
            "driver": lambda pid, _: pid == driver,
            "worker": lambda pid, command: pid != driver and command == found.get(driver),
            "supervisor": lambda _, command: "hermes.aeriel.supervise" in command,
            "guard": lambda _, command: "_watcher.py" in " ".join(command),
            "server": lambda _, command: Path(command[0]).name == "tritonserver",
            "stub": lambda _, command: Path(command[0]).name == "triton_python_backend_stub",
        }
        return [pid for pid, command in found.items() if is_one[kind](pid, command)]

    def left(self) -> list[str]:
        """Return what is there that should have gone with the run."""
        processes = [f"process {pid}: {' '.join(c)[:120]}" for pid, c in self.processes().items()]
        ids = {path.name for path in _entries(self.state)} | self.server_ids()
        regions = [
            f"region {path.name}"
            for path in SHARED_MEMORY.iterdir()
            if path.name.startswith(tuple(f"{server_id}-" for server_id in ids))
        ]
        states = [f"state {path}" for path in _entries(self.state)]
        files = [f"temporary {path}" for path in _entries(self.temporary) if _is_ours(path)]
        return processes + regions + states + files

    def vacant(self) -> list[str]:
        """Return the directories for servers that nobody had begun to start: the next start's."""
        directories = [path for path in _entries(self.state) if path.is_dir()]
        # The status is the first that a supervisor writes, once it has been loaded.
        return [f"state {path}" for path in directories if not (path / "status.json").exists()]

    def server_ids(self) -> set[str]:
        """Return the ids of the servers that this run has had, as its log tells."""
        found: set[str] = set()
        for log in self.directory.glob("*/logs/triton.log"):
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith("| server_id "):
                    found.add(line.split("|")[2].strip())
        return found or {"hermes-none"}

    def is_at(self, moment: str) -> bool:
        """Tell whether the run has come to a moment, by its log and its server's directory."""
        phases = {"loading": "starting", "waiting": "waiting"}
        if moment in phases:
            statuses = [facts_of(path) for path in self.state.glob("*/status.json")]
            return any(facts is not None and facts["phase"] == phases[moment] for facts in statuses)
        task = {"merging": "Merge", "reporting": "Validate"}[moment]
        return f"running   {task}(" in (self.directory / "results.log").read_text()

    def wrong(self) -> list[str]:
        """Return what is wrong with the results of a run that ended well."""
        problems = []
        for file in sorted((ROOT / "build" / "chaos" / "data").iterdir()):
            with (
                h5py.File(file, "r") as given,
                h5py.File(self.output / "predictions" / file.name, "r") as found,
            ):
                if not np.array_equal(found["y"], given["expected"]):
                    problems.append(f"{file.name} has wrong predictions")
        report = json.loads((self.output / "report.json").read_text())
        if report["verdict"] != "passed":
            problems.append(f"the verdict is {report['verdict']}")
        problems += [f"half-written {p}" for p in self.output.rglob("*") if ".partial" in p.name]
        return problems


def prepare() -> None:
    """Make the model and the data that every run uses."""
    directory = ROOT / "build" / "chaos"
    shutil.rmtree(directory, ignore_errors=True)
    model = directory / "models" / "double" / "1"
    model.mkdir(parents=True)
    (model / "model.py").write_text(MODEL)
    (model.parent / "config.pbtxt").write_text(CONFIG)
    (directory / "data").mkdir()
    for number, rows in enumerate(ROWS):
        x = np.random.default_rng(number).standard_normal((rows, 4)).astype(np.float32)
        with h5py.File(directory / "data" / f"{number}.h5", "w") as file:
            file["x"] = x
            file["expected"] = 2 * x


def once(
    fault: str,
    rng: random.Random,
    image: str | None = None,
    *,
    latest_s: float = 9.0,
    keep: bool = False,
) -> Outcome:
    """Run the pipeline with a fault, look at what is left, and run it again without one."""
    directory = Path(tempfile.mkdtemp(prefix="hermes-chaos."))
    options = {"port taken": ("--listen", "127.0.0.1")}.get(fault, ())
    if fault.endswith("waiting"):
        options = ("--gpus", "[0]")
    run = Run(directory=directory, image=image, options=options)
    problems: list[str] = []
    with ExitStack() as stack:
        happened, code = _suffer(run, fault, rng.uniform(0.3, latest_s), rng, stack)
        seconds, left = _time_to_clean(run, _is_for_nobody_to_clean(fault))
        problems += [f"left after {CLEAN_WITHIN_S:g} s: {what}" for what in left]
    if not _is_for_nobody_to_clean(fault):
        for pid in run.processes():  # so that a leak of this run is not one of the next
            _signal_if_there(pid, signal.SIGKILL)
    else:  # a pipeline that has nothing to do cleans nothing
        (run.output / "report.json").unlink(missing_ok=True)
    again = run.start()
    if not _ends(again):
        problems.append("running it again did not end")
    elif again.returncode != 0:
        problems.append(f"running it again ended with {again.returncode}")
    else:
        problems += run.wrong()
    problems += [f"left by the second run: {what}" for what in _time_to_clean(run)[1]]
    problems += [f"left by the second run: {what}" for what in run.vacant()]
    if not (problems and keep):
        shutil.rmtree(directory, ignore_errors=True)
    else:
        problems.append(f"kept in {directory}")
    return Outcome(
        fault=fault,
        happened=happened,
        survived=code == 0,
        problems=tuple(problems),
        seconds_to_clean=seconds,
    )


def _suffer(
    run: Run, fault: str, after_s: float, rng: random.Random, stack: ExitStack
) -> tuple[bool, int | None]:
    """Run the pipeline once; return whether the fault happened, and the exit code."""
    if fault == "disk full":
        stack.enter_context(_small_disk(run.output))
    if fault.endswith("waiting"):
        stack.enter_context(_gpu_held(run))
    driver = run.start()
    others = [run.start("others")] if fault == "shared server" else []
    # What is not to happen at a moment of the run's own happens at a random one.
    moment = time.monotonic() + (0 if " while " in fault else after_s)
    happened = fault in OTHER_FAULTS
    while time.monotonic() < moment and driver.poll() is None:
        time.sleep(0.02)
    if fault == "port taken":
        stack.enter_context(_take_port_of_killed_server(run, driver.pid))
    elif fault == "shared server":
        driver.kill()  # which it may have ended before
    elif fault != "disk full":
        happened = _hit(run, fault, driver, rng)
    ended = [_ends(process) for process in [*others, driver]]
    if not all(ended):
        return happened, None
    # Of two that share a server it is the one that was left alone that has to succeed.
    return happened, (others or [driver])[0].returncode


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=PIPELINE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


def _hit(run: Run, fault: str, driver: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """Send a signal to the victims, as soon as there are some; return whether there were."""
    kinds, name, *when = fault.split(" ")
    if when[:1] == ["while"]:
        while not run.is_at(when[1]):
            if driver.poll() is not None:
                return False
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.5))
    wanted = kinds.split("+")
    while not (found := {kind: run.victims(kind, driver.pid) for kind in wanted})[wanted[0]]:
        if driver.poll() is not None:
            return False
        time.sleep(0.02)
    # One of several workers alone, but all of those that are to die together.
    pids = [pid for some in found.values() for pid in (some if len(wanted) > 1 else [])]
    pids = pids or [rng.choice(found[wanted[0]])]
    number = signal.Signals[name]
    for pid in pids:
        _signal_if_there(pid, number)
    if when == ["twice"]:
        time.sleep(rng.uniform(0.05, 2.0))
        _signal_if_there(pids[0], number)
    if number == signal.SIGSTOP:
        time.sleep(STOPPED_S)
        _signal_if_there(pids[0], signal.SIGCONT)
    return True


def _is_for_nobody_to_clean(fault: str) -> bool:
    """Tell whether those died who would have cleaned up, so that the next start does."""
    return {"supervisor", "guard"} <= set(fault.partition(" ")[0].split("+"))


def _time_to_clean(run: Run, is_for_the_next_start: bool = False) -> tuple[float, list[str]]:
    """Return how long it took until nothing was left, and what was left after 10 s.

    Parameters
    ----------
    run
        The run.
    is_for_the_next_start
        Whether files may stay for now, and on this machine's own runtime nothing else: the kernel
        ends a server whose owner is gone, but a container's.
    """
    started = time.monotonic()
    while left := run.left():
        if is_for_the_next_start:
            left = [] if run.image else [each for each in left if each.startswith("process")]
        if all(each in run.vacant() for each in left):
            break
        if time.monotonic() - started > CLEAN_WITHIN_S:
            return time.monotonic() - started, left
        time.sleep(0.1)
    return time.monotonic() - started, []


@contextmanager
def _gpu_held(run: Run) -> Iterator[None]:
    """Let somebody else have the run's GPU for a while."""
    program = f"""
import time
from hermes.aeriel.serve._gpus import GPURequest
from hermes.aeriel.serve._leases import Holder, hold_gpus
with hold_gpus(GPURequest(gpus=(0,)), Holder(what="somebody's models"), 0):
    print("held", flush=True)
    time.sleep({WAIT_FOR_GPU_S})
"""
    # Without the run's mark: it is not one of its processes.
    environment = {k: v for k, v in run.environment.items() if k != "HERMES_CHAOS_RUN"}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield


@contextmanager
def _small_disk(directory: Path) -> Iterator[None]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(directory)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def _take_port_of_killed_server(run: Run, driver: int) -> Iterator[None]:
    """Kill the server, and listen at its address before it can be started there again."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for pid in run.victims("server", driver):
            command = run.processes().get(pid, [])
            ports = [a.partition("=")[2] for a in command if a.startswith("--grpc-port=")]
            _signal_if_there(pid, signal.SIGKILL)
            _listen_as_soon_as_possible(listener, int(ports[0]))
        yield


def _listen_as_soon_as_possible(listener: socket.socket, port: int) -> None:
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()
            return
        time.sleep(0.005)


def _signal_if_there(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_ours(path: Path) -> bool:
    """Tell whether a temporary file is one of hermes's; Luigi and Python have theirs."""
    return path.name.startswith("hermes")


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:  # it goes with what was last in it
        return []


def faults(runs: int, rng: random.Random) -> list[str]:
    """Return as many faults as there are runs, of each kind about the same number."""
    kinds = [f"{victim} {number.name}" for victim in VICTIMS for number in SIGNALS]
    kinds += [*TOGETHER, *AT_A_MOMENT, *(list(OTHER_FAULTS) * 2)]
    chosen = [kinds[number % len(kinds)] for number in range(runs)]
    rng.shuffle(chosen)
    return chosen


def summarise(outcomes: list[Outcome]) -> str:
    """Return a line per kind of fault."""
    by_fault: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.fault].append(outcome)
    lines = [f"{'fault':<52} runs  happened  survived  recovered  seconds to clean (most)"]
    for fault, found in sorted(by_fault.items()):
        lines.append(
            f"{fault:<52} {len(found):>4}  {sum(o.happened for o in found):>8}  "
            f"{sum(o.survived for o in found):>8}  {sum(not o.problems for o in found):>9}  "
            f"{max(o.seconds_to_clean for o in found):>10.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", help="a Singularity/Apptainer image; default: a local Triton")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no run after that")
    parser.add_argument("--only", help="a kind of fault, or the beginning of one")
    parser.add_argument("--keep", action="store_true", help="keep the directory of a bad run")
    arguments = parser.parse_args()
    # Of a command in the background a shell has SIGINT ignored, by its children too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare()
    rng = random.Random(arguments.seed)
    chosen = [f for f in faults(arguments.runs, rng) if f.startswith(arguments.only or "")]
    deadline = time.monotonic() + arguments.seconds

    def run(numbered: tuple[int, str]) -> Outcome | None:
        number, fault = numbered
        if time.monotonic() > deadline:
            return None
        seeded = random.Random(f"{arguments.seed} {number}")
        outcome = once(fault, seeded, arguments.image, keep=arguments.keep)
        for problem in outcome.problems:
            print(f"{number} {fault}: {problem}", flush=True)
        return outcome

    with ThreadPoolExecutor(arguments.jobs) as threads:
        outcomes = [o for o in threads.map(run, enumerate(chosen)) if o is not None]
    print(summarise(outcomes))
    sys.exit(1 if any(outcome.problems for outcome in outcomes) else 0)


if __name__ == "__main__":
    main()
