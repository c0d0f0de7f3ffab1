"""Fingerprints: what they depend on, and which outputs are complete."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.client import ModelSpecification, TensorSpecification
from hermes.aeriel.files import (
    FINGERPRINT,
    FileJob,
    InferenceOptions,
    check_unchanged,
    chunk_of,
    fingerprint_of,
    plan_files,
)
from hermes.aeriel.files._plan import examine
from hermes.aeriel.files._predictions import PredictionWriter
from hermes.aeriel.files._sources import file_stamp
from hermes.aeriel.files._writer import named
from hermes.errors import DataError, ParameterError

OPTIONS = InferenceOptions(model_name="m")
MAPPED = replace(OPTIONS, input_map={"x": "x"})
MODEL = ModelSpecification(
    name="m",
    version="1",
    platform="",
    inputs={"x": TensorSpecification(name="x", datatype="FP64", shape=(3,))},
    outputs={},
    max_batch_size=8,
)


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{name}.h5" for name in "ab"]
    for file in files:
        with h5py.File(file, "w") as opened:
            opened["x"] = np.zeros((2, 3))
    return files


def job(*files: Path, **changes: Any) -> FileJob:
    return FileJob(
        **{
            "input_files": files,
            "output_file": files[0].with_name("out.h5"),
            "options": OPTIONS,
            "model_stamp": lambda: "model",
            **changes,
        }
    )


def write_output(of: FileJob) -> None:
    """Write an output as the job's inference does."""
    with PredictionWriter(
        of.output_file,
        rows=1,
        fingerprint=of.fingerprint,
        input_stamp=file_stamp(*of.input_files),
    ) as writer:
        writer.write({"y": np.zeros((1, 2))}, 0)
        writer.finish(named(of.input_files))


def test_a_fingerprint_changes_with_all_that_the_output_depends_on(inputs: list[Path]) -> None:
    first = job(inputs[0]).fingerprint
    assert job(inputs[0], output_file=inputs[0].with_name("other.h5")).fingerprint == first
    os.utime(inputs[1], ns=(0, 0))
    others = [
        job(inputs[1]),
        job(*inputs),
        job(*reversed(inputs)),
        job(inputs[0], model_stamp=lambda: "another model"),
        job(inputs[0], options=InferenceOptions(model_name="n")),
        job(inputs[0], facts={"preprocess": "its source"}),
    ]
    assert len({first, *(each.fingerprint for each in others)}) == 1 + len(others)
    os.utime(inputs[0], ns=(0, 0))
    assert job(inputs[0]).fingerprint != first


def test_a_job_keeps_the_fingerprint_that_it_had_first(inputs: list[Path]) -> None:
    begun = job(inputs[0])
    first = begun.fingerprint
    os.utime(inputs[0], ns=(0, 0))
    assert begun.request({}).fingerprint == first


def test_an_output_is_complete_while_it_is_that_of_its_input(inputs: list[Path]) -> None:
    done = job(inputs[0])
    assert not done.is_complete()
    done.output_file.write_bytes(b"not HDF5")
    assert not done.is_complete()
    write_output(done)
    assert job(inputs[0]).is_complete()
    assert not job(inputs[0], model_stamp=lambda: "another model").is_complete()
    assert not job(*inputs).is_complete()
    os.utime(inputs[0], ns=(0, 0))
    assert not job(inputs[0]).is_complete()


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_an_output_whose_inputs_are_gone_stays_complete(inputs: list[Path], n_inputs: int) -> None:
    write_output(job(*inputs[:n_inputs]))
    inputs[0].unlink()
    assert job(*inputs[:n_inputs]).is_complete()
    assert not job(*inputs[:n_inputs], options=InferenceOptions(model_name="n")).is_complete()
    assert not job(inputs[0].with_name("c.h5")).is_complete()


def test_a_file_that_was_not_published_has_no_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "out.h5"
    assert fingerprint_of(file) is None
    with h5py.File(file, "w"):
        pass
    assert fingerprint_of(file) is None
    with h5py.File(file, "w") as opened:
        opened.attrs[FINGERPRINT] = "one"
    assert fingerprint_of(file) == "one"


def test_a_request_is_of_a_jobs_files(inputs: list[Path]) -> None:
    request = job(*inputs).request({"a": 1})
    assert request.provenance == {"a": 1}
    assert request.input_files == tuple(inputs)
    assert request.output_file == inputs[0].with_name("out.h5")


def test_a_request_has_the_fingerprint_of_its_job(inputs: list[Path]) -> None:
    request = job(*inputs).request({})
    assert request.fingerprint_of(file_stamp(*inputs)) == job(*inputs).fingerprint
    assert request.fingerprint_of("changed") != job(*inputs).fingerprint


def test_each_input_gets_a_file_in_the_output_directory(inputs: list[Path]) -> None:
    output_dir = inputs[0].parent / "out"
    jobs = plan_files(OPTIONS, [[file] for file in inputs], output_dir, model_stamp="model")
    assert [each.output_file for each in jobs] == [output_dir / "a.h5", output_dir / "b.h5"]
    assert [each.input_files for each in jobs] == [(file,) for file in inputs]
    assert [each.model_stamp() for each in jobs] == ["model", "model"]
    slides = InferenceOptions(model_name="m", window="1", shifts=(("0", "0"), ("0", "1")))
    jobs = plan_files(slides, [[file] for file in inputs], output_dir, model_stamp="model")
    assert [each.options.shifts for each in jobs] == [("0", "0")] * 2 + [("0", "1")] * 2
    assert len({each.output_file for each in jobs}) == 4


def test_an_input_is_never_replaced(inputs: list[Path]) -> None:
    link = inputs[0].with_name("link")
    link.symlink_to(inputs[0].parent)
    with pytest.raises(ParameterError, match=r"^output_dir: .*b\.h5 is an input too; give another"):
        plan_files(OPTIONS, [[inputs[1]]], link, model_stamp="model")


def test_an_input_that_is_gone_when_it_has_been_read(inputs: list[Path]) -> None:
    stamp = file_stamp(*inputs)
    check_unchanged(inputs, stamp)
    inputs[0].unlink()
    with pytest.raises(DataError, match=r"a\.h5: was removed; put it back, and run it again"):
        check_unchanged(inputs, stamp)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 9])
def test_chunks_are_all_items_in_parts_of_nearly_one_length(total: int) -> None:
    items = range(7)
    chunks = [chunk_of(items, number, total) for number in range(1, total + 1)]
    assert [item for chunk in chunks for item in chunk] == list(items)
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 1


def virtual(file: Path, *sources: Path, dataset: str = "x") -> Path:
    """Write a virtual dataset, whose parts are datasets of other files, of three numbers each."""
    layout = h5py.VirtualLayout((3 * len(sources),), "f8")
    for number, source in enumerate(sources):
        part = h5py.VirtualSource(str(source), dataset, (3,))
        layout[3 * number : 3 * number + 3] = part
    with h5py.File(file, "w") as opened:
        opened.create_virtual_dataset("x", layout)
    return file


def test_a_stamp_changes_with_the_sources_of_sources(tmp_path: Path) -> None:
    sources = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for source in sources:
        with h5py.File(source, "w") as opened:
            opened["x"] = np.zeros(3)
    inner = virtual(tmp_path / "inner.h5", sources[1])
    outer = virtual(tmp_path / "outer.h5", sources[0], inner)
    stamps = {file_stamp(outer)}
    for file in (*sources, inner, outer):
        os.utime(file, ns=(0, len(stamps)))
        stamps.add(file_stamp(outer))
    assert len(stamps) == 5


def test_a_stamp_changes_when_what_was_missing_comes(tmp_path: Path) -> None:
    source, linked = tmp_path / "source.h5", tmp_path / "linked.h5"
    outer = virtual(tmp_path / "outer.h5", source)
    with h5py.File(outer, "a") as opened:
        opened["y"] = h5py.ExternalLink("linked.h5", "x")
    stamps = {file_stamp(outer)}
    for file in (source, linked):
        with h5py.File(file, "w") as opened:
            opened["x"] = np.zeros(3)
        stamps.add(file_stamp(outer))
        os.utime(file, ns=(0, 0))
        stamps.add(file_stamp(outer))
    assert len(stamps) == 5


def test_a_stamp_changes_with_raw_data_in_another_file(tmp_path: Path) -> None:
    raw, file = tmp_path / "raw.bin", tmp_path / "x.h5"
    raw.write_bytes(bytes(24))
    with h5py.File(file, "w") as opened:
        opened.create_dataset("x", (3,), "f8", external=[(str(raw), 0, 24)])
    before = file_stamp(file)
    os.utime(raw, ns=(0, 0))
    assert file_stamp(file) != before


def test_a_file_that_gets_a_source_later_is_looked_at_again(inputs: list[Path]) -> None:
    assert file_stamp(inputs[0]) == file_stamp(inputs[0])
    virtual(inputs[0], inputs[1])
    before = file_stamp(inputs[0])
    os.utime(inputs[1], ns=(0, 0))
    assert file_stamp(inputs[0]) != before


def test_an_input_is_examined_once_while_it_is_the_same(inputs: list[Path]) -> None:
    file = inputs[0]
    found = examine(file, MAPPED, MODEL, target="x")
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(b"\0" * file.stat().st_size)
    os.utime(file, ns=times)
    assert examine(file, MAPPED, MODEL) == replace(found, target=None)

    os.utime(file)
    with pytest.raises(DataError, match="is not an HDF5 file"):
        examine(file, MAPPED, MODEL)


def test_an_input_with_sources_is_examined_anew(inputs: list[Path]) -> None:
    virtual(inputs[0], inputs[1])
    assert examine(inputs[0], MAPPED, MODEL).rows == 3
    inputs[1].unlink()
    with pytest.raises(DataError, match="is missing"):
        examine(inputs[0], MAPPED, MODEL)


def test_a_stamp_is_of_all_files_in_their_order(inputs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "not.hdf5"
    other.write_text("text")
    files = (*inputs, other)
    assert file_stamp(*files).splitlines() == [file_stamp(file) for file in files]
    assert file_stamp(other) == f"{other} 4 {other.stat().st_mtime_ns}"
