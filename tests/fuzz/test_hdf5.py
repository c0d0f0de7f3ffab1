"""Damaged HDF5 files are refused in words: a fixed seed, and HERMES_FUZZ_RUNS for more."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import file_stamp, inspect
from hermes.aeriel.files._reading import open_data
from hermes.errors import DataError

RUNS = int(os.environ.get("HERMES_FUZZ_RUNS", "100"))
PATHS = ("x", "g/z", "s", "soft", "external", "virtual", "")
MOST_VALUES = 10_000_000


def make(file: Path, libver: str) -> None:
    x = np.arange(400, dtype=np.float32).reshape(100, 4)
    with h5py.File(file.with_name("part.h5"), "w") as part:
        part["x"] = x
    with h5py.File(file, "w", libver=libver) as opened:
        opened["x"] = x
        opened["x"].attrs["dx"] = 0.5
        opened.create_dataset("g/z", data=x, chunks=(10, 4), compression="gzip", fletcher32=True)
        opened["s"] = [f"row {row}" for row in range(100)]
        opened["soft"] = h5py.SoftLink("/g/z")
        opened["external"] = h5py.ExternalLink("part.h5", "/x")
        layout = h5py.VirtualLayout((100, 4), "f4")
        layout[:] = h5py.VirtualSource("part.h5", "x", (100, 4))
        opened.create_virtual_dataset("virtual", layout)


def mutate(content: bytes, chance: random.Random) -> bytes:
    mutated = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at = chance.randrange(chance.choice([len(content), min(len(content), 3000)]))
        bit = mutated[at] ^ (1 << chance.randrange(8))
        mutated[at] = chance.choice([0, 255, bit, chance.randrange(256)])
    return bytes(mutated)


def read(file: Path, path: str) -> None:
    """Read all of a file as an inference does."""
    file_stamp(file)
    facts = inspect(file, {"x": path} if path else {}, model_inputs=["x"])
    dataset = facts.datasets["x"]
    if np.prod(dataset.shape, dtype=float) > MOST_VALUES:
        return  # it is what the file says; it would be read in parts
    dtypes = {"x": dataset.dtype}
    with open_data(facts, dtypes) as data:
        data.read_rows("x", 0, facts.rows, np.empty(dataset.shape, dataset.dtype))


def in_a_child(file: Path, path: str) -> int:
    """Return the exit code: a crash of HDF5 is not to be the test's."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    signal.alarm(60)
    try:
        read(file, path)
        code = 0
    except DataError:
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_damage_is_a_data_error(tmp_path: Path, libver: str) -> None:
    make(tmp_path / "whole.h5", libver)
    content = (tmp_path / "whole.h5").read_bytes()
    chance = random.Random(8)
    bad = []
    for run in range(RUNS):
        (tmp_path / "a.h5").write_bytes(mutate(content, chance))
        path = chance.choice(PATHS)
        if (code := in_a_child(tmp_path / "a.h5", path)) != 0:
            bad.append((run, path, code))
    assert not bad
