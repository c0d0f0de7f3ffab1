"""Parts of many files, for as many commands, which may find other files than the first did."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from hermes._files import TEXT_WAIT_S, Partial
from hermes.aeriel.files._facts import listed
from hermes.errors import OutputError, ParameterError

T = TypeVar("T")

RECORD = ".chunks.json"
SHOWN = 3


def chunk_of(items: Sequence[T], number: int, total: int) -> Sequence[T]:
    """Return one of several consecutive parts, whose lengths differ by one at most.

    Parameters
    ----------
    items
        What is divided.
    number, total
        Which part, from 1, and how many there are.
    """
    n = len(items)
    return items[n * (number - 1) // total : n * number // total]


def check_division(output_dir: Path, output_files: Sequence[Path]) -> None:
    """Check that commands for several chunks divide the same files.

    The first one records the outputs in the directory. Until all of them are there, no other files
    can be divided: some would be in no chunk, and others in two.

    Raises
    ------
    ParameterError
        Another command has divided other files, and not all of their outputs are there.
    OutputError
        The record cannot be read or written.
    """
    names = [os.path.relpath(file, output_dir.absolute()) for file in output_files]
    record = output_dir / RECORD
    partial = Partial(record, wait_s=TEXT_WAIT_S)
    try:
        recorded = _read(record)
        if recorded == names:
            return
        if not all((output_dir / name).exists() for name in recorded):
            raise ParameterError("chunk", _difference(record, recorded, names))
        partial.write(json.dumps(names).encode())
        partial.publish()
    finally:
        partial.discard()


def _read(record: Path) -> list[str]:
    try:
        names: list[str] = json.loads(record.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise OutputError(str(record), f"cannot be read: {error}; remove it") from error
    return names


def _difference(record: Path, before: Sequence[str], now: Sequence[str]) -> str:
    new, gone = sorted({*now} - {*before}), sorted({*before} - {*now})
    changes = [
        f"{what} {listed([*map(repr, names)], SHOWN)}"
        for what, names in (("with", new), ("without", gone))
        if names
    ]
    return (
        f"the files are not those that were divided first: {len(now)}, not {len(before)}, "
        f"{' and '.join(changes)}. Give every chunk the same list (--files-from); or remove "
        f"{record} to divide these, in all chunks"
    )
