"""What a model keeps of each sequence between its requests: Triton's implicit state.

Triton gives a request the initial state only: it has no way to take a later one from a Python
backend. Like `_batching`, this module is copied beside the backends, and needs numpy alone.
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/implicit_state_management.md
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[Any]]

# TRITONSERVER_RequestFlag in tritonserver.h
START = 1
END = 2


def declared_states(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the implicit states that a model's configuration declares."""
    states: list[Mapping[str, Any]] = config.get("sequence_batching", {}).get("state", [])
    return states


def sequence_inputs(config: Mapping[str, Any]) -> list[str]:
    """Return the inputs that no client sends: sequence controls, then states."""
    controls = config.get("sequence_batching", {}).get("control_input", [])
    return [
        *(control["name"] for control in controls),
        *(state["input_name"] for state in declared_states(config)),
    ]


class SequenceStates:
    """The implicit states of the sequences that one instance of a model serves."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._names = {
            state["input_name"]: state["output_name"] for state in declared_states(config)
        }
        self.outputs = list(self._names.values())
        oldest = config.get("sequence_batching", {}).get("oldest") or {}
        slots = max(1, int(oldest.get("max_candidate_sequences", 0)), config["max_batch_size"])
        # Triton serves so many sequences at once. It does not announce the end of one that was
        # idle, or whose last request waited too long: what is left of those is in excess.
        self._capacity = 2 * slots
        self._kept: OrderedDict[int | str, Tensors] = OrderedDict()

    def inputs(self, sequence: int | str, flags: int, received: Tensors) -> Tensors:
        """Return what a request brought, with the state that its sequence is in.

        Raises
        ------
        ValueError
            The sequence has no state although it has begun: its first request failed.
        """
        # Without a sequence it fills an empty slot of the batch: Triton's "null requests".
        if not self._names or not sequence:
            return received
        if flags & START:
            self._kept.pop(sequence, None)
            return received
        if sequence not in self._kept:
            raise ValueError(
                f"sequence {sequence} has no state: its first request failed, or it was idle for "
                "too long; begin it again"
            )
        return {**received, **self._kept[sequence]}

    def keep(
        self, sequence: int | str, flags: int, answered: Tensors, outputs: Collection[str]
    ) -> Tensors:
        """Return the `outputs` of an answer, after its state is kept for the next request."""
        if self._names and sequence and not flags & END:
            # A copy: an output may be the memory of an input, which ends with the request.
            self._kept[sequence] = {
                name: np.array(answered[output]) for name, output in self._names.items()
            }
            self._kept.move_to_end(sequence)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        self.end(sequence, flags)
        return {name: answered[name] for name in outputs}

    def end(self, sequence: int | str, flags: int) -> None:
        """Forget the state of a sequence with its last request, answered or not."""
        if flags & END:
            self._kept.pop(sequence, None)
