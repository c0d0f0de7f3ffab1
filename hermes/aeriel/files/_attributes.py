"""Attributes of files that have dozens of them: read and written in half of h5py's time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

Attribute = str | int | float
_STRING = h5py.string_dtype()
_STORED = h5py.h5t.py_create(_STRING, logical=True)
_IN_MEMORY = h5py.h5t.py_create(_STRING)
_SCALAR = h5py.h5s.create(h5py.h5s.SCALAR)


def read_attributes(holder: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return attributes of a file, group or dataset, as `h5py.AttributeManager` has them.

    Parameters
    ----------
    holder
        What has them.
    names
        Those that are wanted, as far as they are there; by default all.
    """
    found: dict[str, Any] = {}

    def add(name: bytes) -> None:
        text = read_text(holder.id, name)
        # Names are UTF-8.
        found[name.decode()] = holder.attrs[name] if text is None else text

    if names is None:
        h5py.h5a.iterate(holder.id, add)
    else:
        for name in map(str.encode, names):
            if h5py.h5a.exists(holder.id, name):
                add(name)
    return found


def read_text(holder: h5py.h5g.GroupID, name: bytes) -> str | None:
    """Return an attribute that is one text of any length; None where it is something else."""
    attribute = h5py.h5a.open(holder, name)
    kind = attribute.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or not kind.is_variable_str():
        return None
    if attribute.shape != ():
        return None
    # The type in memory is given, so that h5py need not derive it from the file for each.
    value = np.empty((), object)
    attribute.read(value, mtype=_IN_MEMORY)
    text = value[()]
    return text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else str(text)


def write_attribute(holder: Any, name: str, value: Any) -> None:
    """Write an attribute that is not there yet.

    As h5py does, which first writes an attribute of another name, and then renames it.
    """
    if isinstance(value, str):
        kind, stored = _IN_MEMORY, _STORED
        # The name of a file may be bytes that are not UTF-8; h5py reads them as this, and refuses
        # them as str.
        array = np.array(value.encode(errors="surrogateescape"), _STRING)
    elif type(value) in (int, float):
        array = np.array(value)
        kind = stored = h5py.h5t.py_create(array.dtype)
    else:
        holder.attrs[name] = value
        return
    attribute = h5py.h5a.create(holder.id, name.encode(), stored, _SCALAR)
    attribute.write(array, mtype=kind)
