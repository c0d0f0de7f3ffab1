"""Input files divided among tasks: small ones share one, large ones have their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hermes.aeriel.files import InputFacts

# What a file takes besides its bytes, and how fast these go, on two cores; see docs/cost.md.
FILE_S = 4e-3
BYTES_PER_S = 200e6
TASK_S = 1.0
# Fewer would leave workers without a task: how long the model takes is not known here.
FEWEST_TASKS = 8


@dataclass(frozen=True, kw_only=True)
class SizedInput:
    """An input, where its predictions go, and how long that may take.

    Parameters
    ----------
    facts
        What is known of its files.
    predictions
        The file to write.
    """

    facts: InputFacts
    predictions: Path

    @property
    def input_map(self) -> Mapping[str, Any]:
        """The paths of the datasets for each model input."""
        return {name: dataset.paths for name, dataset in self.facts.datasets.items()}

    @cached_property
    def seconds(self) -> float:
        """About how long it takes, going by sizes alone."""
        n_bytes = sum(file.stat().st_size for file in self.facts.files)
        return FILE_S + n_bytes / BYTES_PER_S


def divide(inputs: Sequence[SizedInput], files_per_task: int) -> Iterator[list[SizedInput]]:
    """Yield the inputs of each task, in their order; those of a task have one input map.

    Parameters
    ----------
    inputs
        All of them.
    files_per_task
        How many a task gets at most; 0: as many as make about `TASK_S`, but fewer where there
        would be fewer than `FEWEST_TASKS` tasks.
    """
    total = 0.0 if files_per_task else sum(each.seconds for each in inputs)
    most_s = min(TASK_S, total / FEWEST_TASKS)
    part: list[SizedInput] = []
    seconds = 0.0
    for each in inputs:
        is_full = len(part) >= files_per_task if files_per_task else seconds + each.seconds > most_s
        if part and (is_full or each.input_map != part[0].input_map):
            yield part
            part, seconds = [], 0.0
        part.append(each)
        seconds += 0.0 if files_per_task else each.seconds
    if part:
        yield part
