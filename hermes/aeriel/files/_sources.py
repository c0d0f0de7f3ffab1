"""The bytes behind a dataset: other files too, which have to be there, whole and readable."""

# Over 300 lines: all kinds of data that a dataset may have outside of its file.
from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hermes.aeriel.files._links import (
    as_data_errors,
    data_error,
    entries,
    file_name,
    find,
    locate,
)
from hermes.aeriel.files._opening import OpenInputs, open_input, own_stamp
from hermes.aeriel.files._values import check_meanings, check_scales
from hermes.errors import DataError

MOST_SOURCES = 100_000
MOST_KNOWN = 1 << 17
# What stands for the files that were found to reach no others; they are not opened for it again.
_reaching_none: set[str] = set()
_NO_NUMBERS = {
    h5py.h5t.BITFIELD: "bit fields (as PyTables stores booleans); store integers",
    h5py.h5t.OPAQUE: "opaque bytes; store integers, or variable-length bytes",
    h5py.h5t.COMPOUND: "records; store each of their fields in a dataset of its own",
    h5py.h5t.REFERENCE: "references; store the data",
    h5py.h5t.ARRAY: "arrays as elements; store them along further dimensions",
    h5py.h5t.TIME: "HDF5 times; store numbers of seconds",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file in which bytes of a dataset are.

    Parameters
    ----------
    name
        As it stands in the dataset.
    file
        Where it is, or None where there is none.
    path
        The dataset in it; None for a file of raw bytes.
    end
        How far it is read: bytes of a raw file, or the last index of each axis plus one; empty
        where it has no limit, or is read as a whole.
    n_values
        How many values it has to have, where it is read as a whole.
    """

    name: str
    file: Path | None
    path: str | None
    end: tuple[int, ...] = ()
    n_values: int = 0


def sources_of(dataset: h5py.Dataset) -> Iterator[Source]:
    """Yield the other places from which the bytes of a dataset come.

    Raises
    ------
    DataError
        One is not a file, or there are too many.
    """
    if dataset.is_virtual:
        yield from _virtual_sources(dataset)
    external = dataset.external or ()
    left = dataset.nbytes if external else 0
    for name, offset, size in external:
        n_bytes = min(left, size)
        left -= n_bytes
        file = _raw_file(os.fsdecode(name), file_name(dataset))
        is_there = file.exists()
        yield Source(
            name=os.fsdecode(name),
            file=file if is_there else None,
            path=None,
            end=(offset + n_bytes,),
        )


def check_readable(
    dataset: h5py.Dataset, *, allow_external_data: bool, within: tuple[Any, ...] = ()
) -> None:
    """Raise DataError where a dataset cannot be read, or would give other values than it says.

    Parameters
    ----------
    dataset
        The dataset; its sources are checked likewise.
    allow_external_data
        Whether raw bytes may come from files outside the directory of the HDF5 file.
    within
        The datasets that this is a source of.
    """
    if dataset.is_virtual:
        key = (str(Path(file_name(dataset)).resolve()), dataset.name)
        if key in within:
            raise data_error(dataset, "is a virtual dataset that is a source of itself")
        within = (*within, key)
    kind = dataset.id.get_type().get_class()
    if kind in _NO_NUMBERS:
        raise data_error(dataset, f"holds {_NO_NUMBERS[kind]}")
    if kind == h5py.h5t.VLEN and h5py.check_vlen_dtype(dataset.dtype) not in (np.uint8, np.int8):
        raise data_error(dataset, "has elements of varying length; store them with one length")
    filters = dataset.id.get_create_plist()
    for number in range(filters.get_nfilters()):
        code, _, _, name = filters.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            what = (
                f"is stored with the filter {code} ({name.decode(errors='replace') or 'unknown'})"
            )
            advice = (
                "which is not installed; set HDF5_PLUGIN_PATH to its plugins, or repack the file"
            )
            raise data_error(dataset, f"{what}, {advice}")
    check_scales(dataset)
    _check_written(dataset)
    for source in sources_of(dataset):
        _check_source(dataset, source, allow_external_data=allow_external_data, within=within)


def file_stamp(*files: Path, opened: OpenInputs | None = None) -> str:
    """Return a string that changes when a file does, or one of those that its datasets reach.

    By size or modification time; a file that is missing counts as well.

    Parameters
    ----------
    *files
        The files.
    opened
        All of them, where they are open; it is as they were opened, then.

    Raises
    ------
    DataError
        There is no such file any more, or it is damaged.
    """
    return "\n".join(_file_stamp(file, opened) for file in files)


def _file_stamp(file: Path, given: OpenInputs | None) -> str:
    if given is not None:
        with as_data_errors(file):
            return _stamp(file, given.stamps[file], given.hdf5[file])
    try:
        own = own_stamp(file)
    except FileNotFoundError as error:
        raise DataError(
            file=str(file), problem="was removed; put it back, and run it again"
        ) from error
    if own in _reaching_none or not h5py.is_hdf5(file):
        return own
    with as_data_errors(file), open_input(file) as opened:
        return _stamp(file, own, opened)


def _stamp(file: Path, own: str, opened: h5py.File) -> str:
    reached = find_reached(file, own, opened)
    return "\n".join(
        [own, *(own_stamp(at) if at else f"{name} -" for name, at in sorted(reached.items()))]
    )


def find_reached(file: Path, own: str, opened: h5py.File) -> Mapping[str, Path | None]:
    """Return the files that the datasets of a file reach, by their names, and where they are.

    Where it reaches none, `file_stamp` will know, without opening the file.

    Parameters
    ----------
    file
        The file.
    own
        What `own_stamp` returned before it was opened.
    opened
        The file, opened.
    """
    # The file itself says what it reaches: while that is the same, so is this.
    if own in _reaching_none:
        return {}
    reached: dict[str, Path | None] = {}
    for entry in entries(opened):
        if entry.dataset is None:
            reached[entry.leads_to] = None
            continue
        _reach(entry.dataset, reached, set())
    reached.pop(str(file), None)
    if own and not reached:
        if len(_reaching_none) >= MOST_KNOWN:
            _reaching_none.clear()
        _reaching_none.add(own)
    return reached


def reaches_none(own: str) -> bool:
    """Tell whether a file was found to reach no others, by what `own_stamp` returned of it."""
    return own in _reaching_none


def _reach(dataset: h5py.Dataset, reached: dict[str, Path | None], seen: set[Any]) -> None:
    """Add the files that a dataset reaches, its own included."""
    own = file_name(dataset)
    reached[own] = Path(own)
    if not (dataset.is_virtual or dataset.external):
        return
    key = (own, dataset.name)
    if key in seen:
        return
    seen.add(key)
    for source in sources_of(dataset):
        if source.file is None or source.path is None:
            reached[str(source.file or source.name)] = source.file
            continue
        with h5py.File(source.file, "r") as opened:
            found = find(opened, source.path)
            if isinstance(found, h5py.Dataset):
                _reach(found, reached, seen)
            else:
                reached[str(source.file)] = source.file


def _check_source(
    dataset: h5py.Dataset, source: Source, *, allow_external_data: bool, within: tuple[Any, ...]
) -> None:
    if source.file is None:
        raise data_error(dataset, f"its source {source.name} is missing")
    if source.path is None:
        directory = Path(file_name(dataset)).resolve().parent
        if not allow_external_data and not source.file.resolve().is_relative_to(directory):
            problem = f"its raw data are in {source.file}, outside of the directory of the file"
            raise data_error(dataset, f"{problem}; give allow_external_data if that is right")
        status = source.file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise data_error(dataset, f"its source {source.file} is not a file")
        if status.st_size < source.end[0]:
            problem = f"has {status.st_size} bytes of {source.end[0]}"
            raise data_error(dataset, f"its source {source.file} is too short: {problem}")
        return
    where = f"{source.file}:{source.path}"
    with as_data_errors(source.file, source.path), h5py.File(source.file, "r") as opened:
        found = find(opened, source.path)
        if not isinstance(found, h5py.Dataset):
            raise data_error(dataset, f"its source {where} is missing")
        is_short = found.size < source.n_values or any(
            have < want for have, want in zip(found.shape, source.end, strict=False)
        )
        if is_short or len(source.end) not in (0, found.ndim):
            wanted = source.end or f"{source.n_values} values"
            raise data_error(
                dataset,
                f"its source {where} is too short: it has shape {found.shape}, not {wanted}",
            )
        if found.dtype != dataset.dtype and not np.can_cast(found.dtype, dataset.dtype, "safe"):
            raise data_error(
                dataset, f"its source {where} is {found.dtype}, which {dataset.dtype} cannot hold"
            )
        check_readable(found, allow_external_data=allow_external_data, within=within)
        check_meanings(dataset, found, where)


def _check_written(dataset: h5py.Dataset) -> None:
    """Raise DataError where parts of a dataset were never written, as of a run that was killed."""
    what, n_wanted, n_there = "values", int(dataset.size), 0
    if dataset.is_virtual:
        spaces = [mapping.vspace for mapping in dataset.virtual_sources()]
        if any(_is_open(space) for space in spaces):
            return
        n_there = sum(space.get_select_npoints() for space in spaces)
    elif dataset.chunks:
        what = "chunks"
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        n_wanted = math.prod(-(-length // chunk) for length, chunk in pairs)
        n_there = dataset.id.get_num_chunks()
    elif dataset.external or dataset.id.get_storage_size():
        return
    if n_there < n_wanted:
        problem = f"{n_wanted - n_there} of its {n_wanted} {what} were never written"
        advice = "write them, or make the dataset smaller"
        raise data_error(dataset, f"{problem}, and would be read as {dataset.fillvalue}; {advice}")


def _is_open(space: Any) -> bool:
    """Tell whether a selection has no end."""
    return bool(
        space.get_select_type() == h5py.h5s.SEL_HYPERSLABS
        and space.is_regular_hyperslab()
        and h5py.h5s.UNLIMITED in space.get_regular_hyperslab()[2]
    )


def _virtual_sources(dataset: h5py.Dataset) -> Iterator[Source]:
    own = file_name(dataset)
    n_sources = 0
    for mapping in dataset.virtual_sources():
        is_open = _is_open(mapping.vspace)
        extent = {} if is_open else _extent(mapping)
        for number in range(_blocks(dataset, mapping.vspace) if is_open else 1):
            n_sources += 1
            if n_sources > MOST_SOURCES:
                raise data_error(dataset, f"has more than {MOST_SOURCES} sources")
            name, path = (
                _numbered(text, number) for text in (mapping.file_name, mapping.dset_name)
            )
            file = Path(own) if name == "." else locate(name, own, "HDF5_VDS_PREFIX")
            yield Source(name=own if name == "." else name, file=file, path=path, **extent)
            if (name, path) == (mapping.file_name, mapping.dset_name):
                break


def _extent(mapping: Any) -> dict[str, Any]:
    if mapping.src_space.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        return {"n_values": mapping.vspace.get_select_npoints()}
    return {"end": tuple(int(last) + 1 for last in mapping.src_space.get_select_bounds()[1])}


def _blocks(dataset: h5py.Dataset, space: Any) -> int:
    """Return how many sources of an unlimited mapping a dataset has at its present length."""
    start, stride, count, _ = space.get_regular_hyperslab()
    axis = count.index(h5py.h5s.UNLIMITED)
    return max(1, -(-(int(dataset.shape[axis]) - int(start[axis])) // int(stride[axis])))


def _numbered(text: str, number: int) -> str:
    """Return a name with the number of a block in place of ``%b``, as H5Pset_virtual has it."""
    return text.replace("%%", "\0").replace("%b", str(number)).replace("\0", "%")


def _raw_file(name: str, file: str) -> Path:
    """Return where HDF5 looks for raw bytes: in the current directory, unless it is told."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    prefix = prefix.replace("${ORIGIN}", str(Path(file).absolute().parent))
    return Path(prefix) / name
