from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ENVIRONMENT = Path(__file__).resolve().parents[1] / "environment"
REPOSITORY = ENVIRONMENT.parents[1]


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """The directory of a real Slurm, whose jobs may open every GPU of their node."""
    yield from _slurm()


@pytest.fixture(scope="session")
def constrained_slurm() -> Iterator[Path]:
    """The same of one whose jobs may open their own GPUs only."""
    yield from _slurm("--constrain")


@pytest.fixture(scope="session")
def condor() -> Iterator[Path]:
    """The directory of a real HTCondor; HERMES_TEST_CONDOR says where it is kept."""
    kept = os.environ.get("HERMES_TEST_CONDOR", REPOSITORY / "build" / "condor")
    yield from _started("condor", Path(kept))


def _slurm(*options: str) -> Iterator[Path]:
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
