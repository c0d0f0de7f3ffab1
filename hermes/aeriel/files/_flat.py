"""How rows of varying length are stored: flat values, and the offset of each row in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files._output import OutputFile, dataset_name
from hermes.aeriel.files._value_files import Item, ValueFiles
from hermes.aeriel.files._varying import VaryingOutput

_LAYOUT = "row i is values[offsets[i]:offsets[i + 1]]"


def flat_paths(group: str) -> tuple[str, str]:
    """Return the paths of the offsets and of the values of an output of varying length.

    Parameters
    ----------
    group
        The name of its group; see `dataset_name`.
    """
    return f"{group}/offsets", f"{group}/values"


def create_rows(output: OutputFile, group: str, rows: int) -> None:
    """Make a group for rows of varying length, with their offsets, of which the first is written.

    Raises
    ------
    OutputError
        There is not enough space.
    """
    output.reserve(0, group)
    output.hdf5.create_group(group)
    output.write_attributes(output.hdf5[group], {"layout": _LAYOUT})
    offsets, _ = flat_paths(group)
    output.create_dataset(offsets, (rows + 1,), np.dtype(np.int64))
    output.write(offsets, 0, np.zeros(1, np.int64))


class FlatRows:
    """Writes rows of varying length, in their order, into an HDF5 file.

    How many values there are is known at the end. Until then they lie in files of their own, in a
    directory beside the HDF5 file, which has the offsets from the start. So nothing in it is
    extended, and a process that is killed leaves a file that can be opened.

    Parameters
    ----------
    output
        The HDF5 file.
    outputs
        What a row is, by output name.
    rows
        How many rows there will be.
    values
        The files.
    """

    def __init__(
        self,
        output: OutputFile,
        outputs: Mapping[str, VaryingOutput],
        rows: int,
        values: ValueFiles,
    ) -> None:
        self._output = output
        self._outputs = outputs
        self._rows = rows
        self._items: dict[str, Item] = {n: (row.dtype, row.shape) for n, row in outputs.items()}
        self._paths = {name: flat_paths(dataset_name(name)) for name in outputs}
        self._values = values

    def create(self) -> None:
        """Begin, in an HDF5 file that is empty.

        Raises
        ------
        OutputError
            There is not enough space.
        OSError
            The directory cannot be written.
        """
        self._values.create(self._items)
        for name in self._outputs:
            create_rows(self._output, dataset_name(name), self._rows)

    def resume(self, rows_done: int) -> None:
        """Go on after rows that an earlier process has made safe.

        Raises
        ------
        OSError, KeyError
            They are not there.
        """
        n_values = {
            name: int(self._output.hdf5[offsets][rows_done])
            for name, (offsets, _) in self._paths.items()
        }
        self._values.resume(self._items, n_values)

    def write(self, begin: int, run: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        """Write rows: arrays of shape ``(rows, n, *shape)`` by name; nothing counts if one fails.

        Raises
        ------
        OutputError, OSError
            They cannot be written.
        """
        values = {}
        for name, row in self._outputs.items():
            arrays = [outputs[name] for outputs in run]
            lengths = np.concatenate([np.full(len(a), a.shape[1], np.int64) for a in arrays])
            ends = self._values.count(name) + np.cumsum(lengths)
            self._output.write(self._paths[name][0], begin + 1, ends)
            values[name] = np.concatenate(
                [a.reshape(len(a) * a.shape[1], *row.shape) for a in arrays]
            )
        self._values.append(values)

    def finish(self) -> None:
        """Put the values into the HDF5 file.

        Raises
        ------
        OutputError, OSError
            They cannot be written.
        """
        paths = {name: values for name, (_, values) in self._paths.items()}
        self._values.put_into(self._output, paths)
