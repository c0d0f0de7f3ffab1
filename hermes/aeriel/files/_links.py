"""Links of HDF5 files, followed with care: loops, pipes and dangling ends are found beforehand."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from hermes.errors import DataError, HermesError

# More than these have no meaning, and take long: HDF5 itself walks such files in quadratic time.
MOST_LINKS = 16
MOST_GROUPS_DEEP = 100
MOST_ENTRIES = 50_000

# What h5py raises where bytes of a file are not what they should be.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A dataset, or a link that leads to none.

    Parameters
    ----------
    path
        Where it is in the file.
    dataset
        The dataset; None where the link is dangling.
    leads_to
        What a soft or external link names; empty for a hard one.
    """

    path: str
    dataset: h5py.Dataset | None
    leads_to: str = ""

    def __str__(self) -> str:
        dangling = " (dangling)" if self.dataset is None else ""
        return f"{self.path!r} -> {self.leads_to!r}{dangling}" if self.leads_to else repr(self.path)


@contextmanager
def as_data_errors(file: Path | str, dataset: str | None = None, rows: str = "") -> Iterator[None]:
    """Turn what h5py raises of damaged files into DataError.

    Parameters
    ----------
    file, dataset
        What is looked at.
    rows
        Which rows of it, for the message.
    """
    try:
        yield
    except HermesError:
        raise
    except DAMAGE as error:
        what = f"{rows} cannot be read" if rows else "cannot be read"
        said = str(error) or type(error).__name__
        problem = f"{what}; the file is damaged, or changed while it was read ({said})"
        raise DataError(file=str(file), dataset=dataset, problem=problem) from error


def entries(opened: h5py.File) -> Iterator[Entry]:
    """Yield the datasets of a file, through links too, and the links that lead to none.

    Raises
    ------
    DataError
        It has too many groups within groups, or too many entries.
    """
    pending: list[tuple[str, h5py.Group, int]] = [("", opened, 0)]
    seen = {_identity(opened)}
    n_entries = 0
    while pending:
        prefix, group, depth = pending.pop()
        if depth > MOST_GROUPS_DEEP:
            problem = f"has more than {MOST_GROUPS_DEEP} groups within each other"
            raise DataError(file=opened.filename, problem=problem)
        groups = []
        for encoded in list(group.id):
            n_entries += 1
            if n_entries > MOST_ENTRIES:
                problem = (
                    f"has more than {MOST_ENTRIES} entries; put the data into a file of its own"
                )
                raise DataError(file=opened.filename, problem=problem)
            name = _decode(encoded)
            path, leads_to = prefix + name, _leads_to(group, encoded)
            entry = _end_of(group, name) if leads_to else _open(group, encoded)
            if isinstance(entry, h5py.Group) and _identity(entry) not in seen:
                seen.add(_identity(entry))
                groups.append((f"{path}/", entry, depth + 1))
            elif isinstance(entry, h5py.Dataset) or (entry is None and leads_to):
                yield Entry(path=path, dataset=entry, leads_to=leads_to)
        pending += reversed(groups)


def members(group: h5py.Group) -> dict[str, Any]:
    """Return what is in a group by its name, in a third of the time of ``dict(group.items())``."""
    return {_decode(name): _open(group, name) for name in group.id}


def find(group: h5py.Group, path: str) -> Any:
    """Return what is at a path, or None where there is nothing, or a link that leads nowhere.

    Raises
    ------
    DataError
        A link leads to itself, or to something that is no file.
    """
    return _follow(group, path, MOST_LINKS)


def file_name(entry: Any) -> str:
    """Return the name of the file that has a group or dataset.

    ``entry.file.filename`` makes an `h5py.File` for it, which takes ten times as long.
    """
    return os.fsdecode(h5py.h5f.get_name(entry.id))


def data_error(dataset: h5py.Dataset, problem: str) -> DataError:
    """Return the error for a problem of a dataset."""
    return DataError(file=file_name(dataset), dataset=dataset.name.lstrip("/"), problem=problem)


def is_same(some: Any, other: Any) -> bool:
    """Tell whether two names are of one object."""
    return _identity(some) == _identity(other)


def attributes_of(dataset: h5py.Dataset) -> Mapping[str, Any]:
    """Return the attributes of a dataset; most have none, which is known at once."""
    if not h5py.h5a.get_num_attrs(dataset.id):
        return {}
    attributes: Mapping[str, Any] = dataset.attrs
    return attributes


def locate(name: str, file: str, variable: str) -> Path | None:
    """Return the HDF5 file that HDF5 finds by a name in another file, or None.

    The places are those of ``H5F_prefix_open_file``.

    Parameters
    ----------
    name
        As it stands in the file.
    file
        The file.
    variable
        The environment variable with further directories.

    Raises
    ------
    DataError
        It is a pipe, a device or a directory, which HDF5 might wait for.
    """
    places = [name] if Path(name).is_absolute() else []
    last = Path(name).name if places else name
    directories = [prefix for prefix in os.environ.get(variable, "").split(":") if prefix]
    directories += [str(Path(file).absolute().parent), ".", str(Path(file).resolve().parent)]
    for place in [*map(Path, places), *(Path(directory) / last for directory in directories)]:
        try:
            mode = place.stat().st_mode
        except OSError:
            continue
        if not stat.S_ISREG(mode):
            raise DataError(file=file, problem=f"points at {place}, which is not a file")
        if h5py.is_hdf5(place):
            return place
    return None


def _follow(group: h5py.Group, path: str, left: int) -> Any:
    if left < 0:
        problem = f"has links that lead to links, more than {MOST_LINKS}: a loop?"
        raise DataError(file=file_name(group), dataset=path, problem=problem)
    here: Any = group.file if path.startswith("/") and not isinstance(group, h5py.File) else group
    pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    while pending:
        name = pending.pop().encode(errors="surrogateescape")
        if not isinstance(here, h5py.Group) or not here.id.links.exists(name):
            return None
        kind = here.id.links.get_info(name).type
        rest = "/".join(reversed(pending))
        if kind == h5py.h5l.TYPE_SOFT:
            target = _decode(here.id.links.get_val(name))
            is_there = _follow(here, f"{target}/{rest}", left - 1) is not None
            return group[path] if is_there else None
        if kind == h5py.h5l.TYPE_EXTERNAL:
            source, inside = here.id.links.get_val(name)
            found = locate(os.fsdecode(source), file_name(here), "HDF5_EXT_PREFIX")
            if found is None:
                return None
            with h5py.File(found, "r") as other:
                is_there = _follow(other, f"/{_decode(inside)}/{rest}", left - 1) is not None
            return group[path] if is_there else None
        here = _open(here, name)
    return here


def _decode(name: bytes) -> str:
    """Return a name within a file: UTF-8, whatever the locale says of the names of files."""
    return name.decode(errors="surrogateescape")


def _open(group: h5py.Group, name: bytes) -> Any:
    """Return what a hard link of a group leads to, in a third of the time of ``group[name]``."""
    found = h5py.h5o.open(group.id, name)
    if isinstance(found, h5py.h5d.DatasetID):
        return h5py.Dataset(found, readonly=True)
    return h5py.Group(found) if isinstance(found, h5py.h5g.GroupID) else h5py.Datatype(found)


def _end_of(group: h5py.Group, name: str) -> Any:
    try:
        return find(group, name)
    except (HermesError, *DAMAGE):
        return None  # it is listed as dangling; whoever wants it is told why


def _leads_to(group: h5py.Group, encoded: bytes) -> str:
    links = group.id.links
    kind = links.get_info(encoded).type
    if kind == h5py.h5l.TYPE_SOFT:
        return _decode(links.get_val(encoded))
    if kind == h5py.h5l.TYPE_EXTERNAL:
        source, inside = links.get_val(encoded)
        return f"{os.fsdecode(source)}:{_decode(inside)}"
    return ""


def _identity(entry: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(entry.id)
    return info.fileno, info.addr
