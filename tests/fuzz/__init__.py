"""Readers of what people write, fed with damage: a value, or one sentence, and never anything else.

The suite makes the same few hundred mutations each time; ``python -m tests.fuzz RUNS`` makes as
many as it is told to, of which the first are the same.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import TypeVar

from hermes.errors import HermesError

T = TypeVar("T")

RUNS_VARIABLE = "HERMES_FUZZ_RUNS"
RUNS = int(os.environ.get(RUNS_VARIABLE, "300"))
# Of an error's text: what it shows of the damage is shortened.
LONGEST = 1000


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with a few of them changed, left out, repeated or cut off."""
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(mutated) + 1)
        match rng.randrange(5):
            case 0:
                mutated[at : at + 1] = rng.randbytes(1)
            case 1:
                del mutated[at : at + rng.randint(1, 20)]
            case 2:
                begin = rng.randrange(len(mutated) + 1)
                mutated[at:at] = mutated[begin : begin + rng.randint(1, 40)]
            case 3:
                mutated[at:at] = rng.randbytes(rng.randint(1, 4))
            case 4 if rng.random() < 0.3:
                del mutated[at:]
    return bytes(mutated)


def outcome(read: Callable[[], T], seed: int) -> T | str:
    """Return what a reader returns, or what it says of what it refuses; nothing else may happen."""
    try:
        return read()
    except HermesError as error:
        said = str(error)
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    assert len(said) < LONGEST, f"seed {seed}"
    return said
