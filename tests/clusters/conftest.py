from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hermes.aeriel.jobs import _htcondor, _slurm
from hermes.aeriel.jobs._engine import JobId, JobState
from tests.clusters.pipeline import Cluster

ENVIRONMENT = Path(__file__).resolve().parents[1] / "environment"
REPOSITORY = ENVIRONMENT.parents[1]


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """The directory of a real Slurm with accounting, whose jobs may open every GPU."""
    yield from _slurm_system("--accounting")


@pytest.fixture(scope="session")
def constrained_slurm() -> Iterator[Path]:
    """The same of one whose jobs may open their own GPUs only."""
    yield from _slurm_system("--constrain")


@pytest.fixture
def hosts(shared: Path, triton_home: Path) -> Iterator[Hosts]:
    """Three hosts: a login node, and two nodes of a Slurm."""
    paths = [shared, triton_home, *python_paths()]
    for directory in _slurm_system("--hosts", *map(str, paths)):
        yield Hosts(directory)


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """A directory that all hosts of a batch system see at the same path."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hermes-shared-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def condor(shared: Path, triton_home: Path) -> Iterator[Path]:
    """The directory of a real HTCondor; HERMES_TEST_CONDOR says where it is kept.

    Processes of pytest that run at once have one each.
    """
    kept = os.environ.get("HERMES_TEST_CONDOR", REPOSITORY / "build" / "condor")
    kept = f"{kept}-{worker}" if (worker := os.environ.get("PYTEST_XDIST_WORKER")) else kept
    paths = [shared, (triton_home / "current").resolve(), *python_paths()]
    yield from _started("condor", Path(kept), *map(str, paths))


@pytest.fixture
def slurm_cluster(slurm: Path, shared: Path, triton_home: Path) -> Cluster:
    """A Slurm for pipelines."""
    gpus = [f"GPU-{uuid.uuid4()}" for _ in range(4)]  # locks are the host's: no other test's GPUs
    variables = {"SLURM_CONF": str(slurm / "slurm.conf"), **gpu_stand_in(shared, gpus)}

    def states(run: str) -> Mapping[JobId, JobState]:
        command = _slurm.states_command(run)
        return _slurm.parse_states(output_of(command, {**os.environ, **variables}))

    return Cluster(name="slurm", variables=variables, states=states)


@pytest.fixture
def htcondor_cluster(condor: Path, shared: Path, triton_home: Path) -> Cluster:
    """An HTCondor for pipelines, whose drivers run in its chroot as a user of it."""
    root = condor / "root"
    owner = (root / "home" / "condoruser").stat().st_uid
    home = shared / "triton"
    if not home.exists():
        copy_triton(triton_home, home, owner)
    prefix = ("chroot", f"--userspec={owner}:{owner}", str(root))
    variables = {
        "HOME": "/home/condoruser",
        "HERMES_TRITON_HOME": str(home),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        **gpu_stand_in(shared, ["GPU-0a0a0a0a-1", "GPU-1b1b1b1b-2"]),
    }

    def states(run: str) -> Mapping[JobId, JobState]:
        command = [*prefix, *_htcondor.states_command(run)]
        return _htcondor.parse_states(output_of(command, variables))

    return Cluster(name="htcondor", variables=variables, states=states, prefix=prefix, owner=owner)


@pytest.fixture
def directory(shared: Path) -> Iterator[Path]:
    """A directory of a test's own that all hosts see."""
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        yield Path(directory)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The batch system that a test names, by indirect parameters."""
    found: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return found


class Hosts:
    """The hosts of a Slurm, which are namespaces of this machine's.

    Parameters
    ----------
    directory
        That of the Slurm.
    """

    names = ("login", "node1", "node2")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in self.names:
            gpus = [{"uuid": f"GPU-{uuid.uuid4()}"} for _ in range(2)]
            (self.root(name) / "tmp" / "gpus.json").write_text(json.dumps(gpus))

    def first_process(self, name: str) -> int:
        """Return the process with which a host ends."""
        return int((self.directory / f"{name}.pid").read_text())

    def root(self, name: str) -> Path:
        """Return the root of a host's file system."""
        return Path(f"/proc/{self.first_process(name)}/root")

    def address(self, name: str) -> str:
        """Return the address of a host."""
        lines = (self.directory / "hosts").read_text().splitlines()
        (found,) = [address for address, each in map(str.split, lines) if each == name]
        return found

    def has(self, name: str, pid: int) -> bool:
        """Tell whether a process runs on a host."""
        namespaces = [Path(f"/proc/{each}/ns/pid") for each in (self.first_process(name), pid)]
        return namespaces[0].readlink() == namespaces[1].readlink()

    def regions(self, name: str) -> list[str]:
        """Return the shared memory of a host."""
        return [region.name for region in (self.root(name) / "dev" / "shm").iterdir()]

    def cluster(self, name: str) -> Cluster:
        """Return the Slurm for pipelines whose drivers run on a host.

        The state of servers is among the temporary files of each host.
        """
        prefix = (
            *("nsenter", f"--target={self.first_process(name)}"),
            *("--net", "--mount", "--pid", "--uts", "--ipc"),
        )
        variables = {
            "SLURM_CONF": str(self.directory / "slurm.conf"),
            "PYTHONPATH": f"{ENVIRONMENT / 'gpus'}:{REPOSITORY}",
            "FAKE_GPUS": "/tmp/gpus.json",
        }

        def states(run: str) -> Mapping[JobId, JobState]:
            command = _slurm.states_command(run)
            return _slurm.parse_states(output_of(command, {**os.environ, **variables}))

        return Cluster(name="slurm", variables=variables, states=states, prefix=prefix)


def gpu_stand_in(directory: Path, gpus: list[str]) -> dict[str, str]:
    """Return variables that have programs find GPUs in place of NVIDIA's driver."""
    listed = directory / f"{gpus[0]}.json"
    listed.write_text(json.dumps([{"uuid": gpu} for gpu in gpus]))
    return {"PYTHONPATH": f"{ENVIRONMENT / 'gpus'}:{REPOSITORY}", "FAKE_GPUS": str(listed)}


def output_of(command: list[str], environment: Mapping[str, str]) -> str:
    """Return what a command writes."""
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return done.stdout


def python_paths() -> list[Path]:
    """Return what this Python consists of, and the repository, with all that links lead to."""
    link, paths = Path(sys.executable), [Path(sysconfig.get_path("stdlib"))]
    while link.is_symlink():
        link = link.parent / link.readlink()
        paths.append(link)
    library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
    multiarch = library.parent / (sysconfig.get_config_var("MULTIARCH") or "") / library.name
    outside = [path for path in (*paths, library, multiarch) if path.exists()]
    return [REPOSITORY, *(path for path in outside if not path.is_relative_to(REPOSITORY))]


def copy_triton(home: Path, copy: Path, owner: int) -> None:
    """Make another user's own of an installed Triton; what cannot be its own is linked."""
    installed = (home / "current").resolve()
    own = copy / installed.name
    own.mkdir(parents=True)
    (copy / "current").symlink_to(installed.name)
    for path in installed.iterdir():
        if path.name.startswith("backends-"):
            shutil.copytree(path, own / path.name)
        else:
            (own / path.name).symlink_to(path)
    for path in [copy, *copy.rglob("*")]:
        os.chown(path, owner, owner, follow_symlinks=False)


def _slurm_system(*options: str) -> Iterator[Path]:
    # Its authentication takes no directory that others cannot enter, as pytest's are.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hermes-slurm-") as directory:
        Path(directory).chmod(0o755)
        yield from _started("slurm", Path(directory), *options)


def _started(system: str, directory: Path, *options: str) -> Iterator[Path]:
    """Yield the directory of a batch system that runs; skip where it cannot be started."""
    start = [str(ENVIRONMENT / f"start-{system}.sh"), str(directory), *options]
    try:
        done = subprocess.run(
            start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"{' '.join(start)}: {done.stderr.strip()}")
        yield directory
    finally:
        if directory.exists():
            stop = [str(ENVIRONMENT / f"stop-{system}.sh"), str(directory)]
            subprocess.run(stop, check=True, timeout=120)


@pytest.fixture(scope="session")
def snakemake() -> Path:
    """Snakemake 9, in an environment of its own; HERMES_TEST_SNAKEMAKE says where that is kept."""
    kept = Path(os.environ.get("HERMES_TEST_SNAKEMAKE", REPOSITORY / "build" / "snakemake"))
    if not (kept / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", kept], check=True)
        packages = ["snakemake>=9,<10", "snakemake-executor-plugin-slurm>=2,<3"]
        subprocess.run([kept / "bin" / "pip", "install", "--quiet", *packages], check=True)
        (kept / "made").touch()
    return kept / "bin" / "snakemake"
