"""The batch systems that there are, by name."""

from __future__ import annotations

from hermes.aeriel.jobs._engine import Engine
from hermes.aeriel.jobs._htcondor import HTCondor
from hermes.aeriel.jobs._slurm import Slurm
from hermes.aeriel.jobs._slurm_steps import SlurmSteps

ENGINES: dict[str, type[Engine]] = {
    "slurm": Slurm,
    "slurm-steps": SlurmSteps,
    "htcondor": HTCondor,
}


def find_engine(name: str) -> Engine:
    """Return the batch system of a name."""
    return ENGINES[name]()
