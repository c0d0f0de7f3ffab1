"""The process that ends the jobs of a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hermes.aeriel.jobs._engines import find_engine
from hermes.aeriel.jobs._files import RunDirectory
from hermes.aeriel.jobs._reaper import IGNORED, Reaper


@pytest.mark.parametrize("number", IGNORED)
def test_a_signal_at_its_start_does_not_end_it(number: signal.Signals, tmp_path: Path) -> None:
    """Luigi sends one to the children of a worker, whatever they are doing."""
    run = RunDirectory.create(tmp_path)
    with Reaper(run, "slurm", find_engine("slurm")) as reaper:
        os.kill(reaper._process.pid, number)
    assert reaper._process.returncode == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
