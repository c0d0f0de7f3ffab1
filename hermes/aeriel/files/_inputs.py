"""The HDF5 files that go in: looked at, and refused before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py

from hermes.aeriel._options import InputMap
from hermes.aeriel.files._agreement import unknown_input
from hermes.aeriel.files._facts import DatasetFacts, InputFacts, Location
from hermes.aeriel.files._links import as_data_errors, entries, find, is_same
from hermes.aeriel.files._opening import OpenInputs, open_input, open_inputs
from hermes.aeriel.files._sources import check_readable, find_reached
from hermes.aeriel.files._stack import Stack
from hermes.aeriel.files._times import sample_rate_of
from hermes.aeriel.files._values import units_of
from hermes.aeriel.files._window_options import WindowOptions, check_times
from hermes.errors import DataError, ParameterError

NO_ROWS = "has no rows; skip_empty (--skip-empty) leaves such files out"


@contextmanager
def open_channel(
    file: Path, input_map: InputMap, number: int, *, model_inputs: Sequence[str] | None
) -> Iterator[h5py.Dataset]:
    """Open the file of one channel, of several that have one each, and yield its first dataset.

    Parameters
    ----------
    file
        An HDF5 file.
    input_map, model_inputs
        As for `inspect`.
    number
        Which channel it is, from 0.

    Raises
    ------
    DataError
        As `inspect` does.
    ParameterError
        `input_map` has no dataset for the file.
    """
    with open_input(file) as opened, as_data_errors(file):
        paths = _complete_map(opened, file, input_map, model_inputs, optional=(), target=None)
        name, given = next(iter(paths.items()))
        if not isinstance(given, str) and number >= len(given):
            raise _too_few(name, given, number + 1)
        path = given if isinstance(given, str) else given[number]
        yield _found({file: opened}, Location(file=file, path=path), allow_external_data=True)


def inspect(
    files: Path | Sequence[Path],
    input_map: InputMap,
    *,
    model_inputs: Sequence[str] | None = None,
    optional: Collection[str] = (),
    target: str | None = None,
    target_file: Path | None = None,
    cut: WindowOptions | None = None,
    allow_external_data: bool = False,
    opened: OpenInputs | None = None,
) -> InputFacts:
    """Return the facts of an input, after checking that it can be used.

    Parameters
    ----------
    files
        An HDF5 file; or several, each of which has one channel of every series.
    input_map
        The path of a dataset by the name of the model input that it is for. Several paths are
        those of the channels, in their order. With several files, one path is that of the dataset
        in each of them, and several are one for each file.
    model_inputs
        The names of the model's inputs, where they are known. An input that `input_map` does not
        name takes the dataset of its own name; the only input of a model takes the only dataset
        (besides the target). Unknown inputs are as if there were one.
    optional
        Those of them that the model can do without: one whose dataset is not there is left out.
    target
        The path of the dataset with the targets, if any.
    target_file
        The file that it is in; by default the first file.
    cut
        How the inputs are cut into windows, which are rows then; None where they have rows.
    allow_external_data
        Whether raw bytes of a dataset may come from files outside the file's directory.
    opened
        All of these files, where they are open.

    Raises
    ------
    ParameterError
        Several datasets are given for an input that is not cut into windows, or not one for each
        file.
    DataError
        A file is no HDF5 file, or damaged, lacks a dataset, has none or too many to choose from,
        has no rows, or its datasets have different numbers of rows; a dataset cannot be read,
        because a source of it or a filter is missing, or is something else than numbers or strings;
        channels do not agree; or windows of datasets are of different times.
    """
    files = (files,) if isinstance(files, Path) else tuple(files)
    allowed = allow_external_data
    own = target if target_file in (None, *files) else None
    target_facts = None
    every = dict.fromkeys((*files, target_file or files[0]))
    with open_inputs(every, opened) as given, as_data_errors(files[0]):
        hdf5 = given.hdf5
        if target is not None:
            at = Location(file=target_file or files[0], path=target)
            target_facts = _facts([at], Stack.of_rows(_found(hdf5, at, allowed, is_target=True)))
        paths = _complete_map(
            hdf5[files[0]], files[0], input_map, model_inputs, optional=optional, target=own
        )
        stacks, datasets = [], {}
        for name, path in paths.items():
            locations = _locations(name, path, files, cut)
            found = [_found(hdf5, location, allowed) for location in locations]
            stack = Stack.of_rows(found[0]) if cut is None else cut.stack(found)
            stacks.append(stack)
            datasets[name] = _facts(locations, stack, cut)
        if cut is not None:
            check_times(cut, stacks)
            for stack in stacks:
                cut.check_slides(stack)
        for file in every:  # so that it is not opened again for its stamp
            find_reached(file, given.stamps[file], hdf5[file])
    first_facts = next(iter(datasets.values()))
    rows = first_facts.shape[0]
    for other in [*datasets.values(), *([target_facts] if target_facts else [])]:
        if other.shape[0] == 0:
            raise DataError(file=str(other.file), dataset=other.path, problem=NO_ROWS)
        if other.shape[0] != rows:
            of_file = "" if other.file in files else f" of {first_facts.file}"
            problem = f"has {other.shape[0]} rows, but {first_facts.path!r}{of_file} has {rows}"
            raise DataError(file=str(other.file), dataset=other.path, problem=problem)
    return InputFacts(files=files, rows=rows, datasets=datasets, target=target_facts)


def _complete_map(
    opened: h5py.File,
    file: Path,
    input_map: InputMap,
    model_inputs: Sequence[str] | None,
    *,
    optional: Collection[str],
    target: str | None,
) -> dict[str, str | tuple[str, ...]]:
    if model_inputs is not None and len(model_inputs) == 1 and set(input_map) == {""}:
        # Settled by a caller who had not met the model yet, but had seen the target.
        return {model_inputs[0]: input_map[""]}
    for name, path in input_map.items():
        if model_inputs is not None and name not in model_inputs:
            raise unknown_input(name, [path] if isinstance(path, str) else path, model_inputs)
    wanted = list(model_inputs or input_map or [""])
    missing = [name for name in wanted if name not in input_map]
    required = [name for name in wanted if name not in optional]
    paths = {name: input_map[name] for name in wanted if name in input_map}
    for name in missing:
        found = find(opened, name) if name else None
        if found is not None:
            if target is not None and is_same(found, find(opened, target)):
                problem = (
                    f"is the target {target!r} by another name, and would be the model's input"
                )
                advice = "name the dataset for it in input_map"
                raise DataError(file=str(file), dataset=name, problem=f"{problem}; {advice}")
            paths[name] = name
        elif name in optional:
            continue
        elif len(required) == 1:
            paths[name] = _only_dataset(opened, file, target)
        else:
            problem = f"not found; name the dataset for the model's input {name!r} in input_map"
            raise DataError(file=str(file), dataset=name, problem=f"{problem}. {_there(opened)}")
    if not paths:
        problem = f"has no dataset for any of the model's inputs {wanted}. {_there(opened)}"
        raise DataError(file=str(file), problem=problem)
    return paths


def _only_dataset(opened: h5py.File, file: Path, target: str | None) -> str:
    target_dataset = find(opened, target) if target else None
    datasets: dict[str, h5py.Dataset] = {}
    for entry in entries(opened):
        is_target = target_dataset is not None and entry.dataset is not None
        if entry.dataset is None or (is_target and is_same(entry.dataset, target_dataset)):
            continue
        if not any(is_same(entry.dataset, other) for other in datasets.values()):
            datasets[entry.path] = entry.dataset
    if len(datasets) == 1:
        return next(iter(datasets))
    names = sorted(datasets)
    problem = "has no dataset" if not names else f"has {len(names)} datasets {names[:10]}"
    advice = 'name the one for the model\'s input in input_map, as \'{"x": "/path"}\''
    raise DataError(file=str(file), problem=f"{problem}; {advice}. {_there(opened)}")


def _locations(
    name: str, given: str | tuple[str, ...], files: Sequence[Path], cut: WindowOptions | None
) -> tuple[Location, ...]:
    """Return where an input, or each of its channels, is."""
    paths = (given,) * len(files) if isinstance(given, str) else given
    of_each = [*files] * len(paths) if len(files) == 1 else files
    if len(paths) != len(of_each):
        raise _too_few(name, paths, len(files))
    if len(paths) > 1 and cut is None:
        problem = f"{name!r} has several datasets, which can only be the channels of time series"
        raise ParameterError("input_map", f"{problem}; give the length of a window as window")
    pairs = zip(of_each, paths, strict=True)
    return tuple(Location(file=file, path=path) for file, path in pairs)


def _too_few(name: str, paths: Sequence[str], n_files: int) -> ParameterError:
    problem = f"{name!r} has {len(paths)} datasets for {n_files} files"
    return ParameterError("input_map", f"{problem}; give one path, or one for each file")


def _found(
    opened: Mapping[Path, h5py.File],
    location: Location,
    allow_external_data: bool,
    *,
    is_target: bool = False,
) -> h5py.Dataset:
    """Return a dataset that can be read."""
    file, path = str(location.file), location.path
    with as_data_errors(file, path):
        entry = find(opened[location.file], path)
        if entry is None:
            problem = f"not found{_where_targets_are(path) if is_target else ''}"
            problem += f". {_there(opened[location.file])}"
            raise DataError(file=file, dataset=path, problem=problem)
        if not isinstance(entry, h5py.Dataset):
            raise DataError(file=file, dataset=path, problem="is a group, not a dataset")
        if not entry.shape:
            raise DataError(file=file, dataset=path, problem="is a scalar; rows are wanted")
        check_readable(entry, allow_external_data=allow_external_data)
        return entry


def _where_targets_are(path: str) -> str:
    where = "; targets have to be in each input file, or in others, target_file (--target-file)"
    if path.startswith("["):
        where += ", and are one dataset; validate each of several by itself"
    return where


def _facts(
    locations: Sequence[Location], stack: Stack, cut: WindowOptions | None = None
) -> DatasetFacts:
    dataset = stack.datasets[0]
    with as_data_errors(locations[0].file, locations[0].path):
        return DatasetFacts(
            locations=tuple(locations),
            shape=stack.shape if cut is None else cut.shape_of(stack),
            dtype=stack.dtype,
            sample_rate=_rate(dataset),
            units=units_of(dataset),
        )


def _rate(dataset: h5py.Dataset) -> float | None:
    try:
        return sample_rate_of(dataset)
    except DataError:
        return None  # where it is wanted, it is asked for again


def _there(opened: h5py.File) -> str:
    names = sorted(str(entry) for entry in entries(opened))
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"The file has [{', '.join(names[:10])}]{more}"
