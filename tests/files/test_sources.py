"""An input is what its bytes are: sources, links, filters and values are looked at beforehand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import (
    check_agreement,
    file_stamp,
    find_files,
    inspect,
    own_stamp,
    reaches_none,
)
from hermes.aeriel.files._links import entries
from hermes.aeriel.files._reading import open_data
from hermes.aeriel.files._values import InputValues
from hermes.errors import DataError, ParameterError

X = np.arange(400, dtype=np.float32).reshape(100, 4)


def write(file: Path, **datasets: Any) -> Path:
    with h5py.File(file, "w") as opened:
        for name, value in datasets.items():
            opened[name] = value
    return file


def write_virtual(file: Path, source: str, path: str = "raw") -> Path:
    with h5py.File(file, "w") as opened:
        layout = h5py.VirtualLayout((100, 4), "f4")
        layout[:] = h5py.VirtualSource(source, path, (100, 4))
        opened.create_virtual_dataset("x", layout)
    return file


def refused(file: Path, said: str, **options: Any) -> None:
    with pytest.raises(DataError, match=said):
        inspect(file, {"x": "x"}, **options)


def test_a_missing_or_short_source_is_refused(tmp_path: Path) -> None:
    file = write_virtual(tmp_path / "v.h5", "part.h5")
    refused(file, r"dataset 'x': its source part\.h5 is missing")
    write(tmp_path / "part.h5", raw=X[:50])
    refused(file, r"part\.h5:raw is too short")
    write(tmp_path / "part.h5", raw=X)
    assert inspect(file, {"x": "x"}).rows == 100


def test_a_virtual_dataset_of_itself_is_refused(tmp_path: Path) -> None:
    refused(write_virtual(tmp_path / "v.h5", "v.h5", "x"), "is a source of itself")


@pytest.mark.parametrize("link", ["virtual", "external"])
def test_a_source_that_changes_changes_the_stamp(tmp_path: Path, link: str) -> None:
    write(tmp_path / "part.h5", raw=X)
    if link == "virtual":
        file = write_virtual(tmp_path / "v.h5", "part.h5")
    else:
        file = write(tmp_path / "v.h5", x=h5py.ExternalLink("part.h5", "/raw"))
    before = file_stamp(file)
    assert file_stamp(file) == before
    assert not reaches_none(own_stamp(file))
    os.utime(tmp_path / "part.h5", (1, 1))
    assert file_stamp(file) != before
    (tmp_path / "part.h5").unlink()
    assert file_stamp(file) != before


def test_raw_data_are_the_files_own_unless_that_is_allowed(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    (tmp_path / "secret").write_bytes(bytes(400))
    with h5py.File(directory / "raw.h5", "w") as opened:
        external = [(str(tmp_path / "secret"), 0, 400)]
        opened.create_dataset("x", (100, 4), "u1", external=external)
    refused(directory / "raw.h5", "give allow_external_data")
    assert inspect(directory / "raw.h5", {"x": "x"}, allow_external_data=True).rows == 100
    (tmp_path / "secret").write_bytes(bytes(399))
    refused(directory / "raw.h5", "is too short", allow_external_data=True)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(write(tmp_path / "a.h5", x=h5py.ExternalLink("pipe", "/x")), "which is not a file")
    with h5py.File(tmp_path / "b.h5", "w") as opened:
        external = [(str(tmp_path / "pipe"), 0, 400)]
        opened.create_dataset("x", (100, 4), "u1", external=external)
    refused(tmp_path / "b.h5", "is not a file")
    refused(tmp_path / "pipe", "is not a file")


def test_links_are_listed_and_loops_and_depths_end(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", y=X, x=h5py.SoftLink("/z"), z=h5py.SoftLink("/x"))
    refused(file, "a loop")
    gone = write(tmp_path / "b.h5", y=X, x=h5py.ExternalLink("none.h5", "/f"))
    refused(gone, r"not found.*'x' -> 'none\.h5:/f' \(dangling\), 'y'")
    with h5py.File(tmp_path / "deep.h5", "w") as opened:
        group: Any = opened
        for _ in range(1000):
            group = group.create_group("g")
    with pytest.raises(DataError, match="groups within each other"):
        file_stamp(tmp_path / "deep.h5")


def test_a_target_by_another_name_is_no_input(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", y=X, label=h5py.SoftLink("/y"), feature=X + 1)
    facts = inspect(file, {}, model_inputs=["z"], target="label")
    assert facts.datasets["z"].path == "feature"
    with pytest.raises(DataError, match="is the target 'label' by another name"):
        inspect(file, {}, model_inputs=["y"], target="label")
    with h5py.File(file) as opened:
        assert "'label' -> '/y'" in [str(entry) for entry in entries(opened)]


def test_what_are_no_numbers_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "bits.h5", "w") as opened:
        space = h5py.h5s.create_simple((100, 4))
        h5py.h5d.create(opened.id, b"x", h5py.h5t.NATIVE_B8, space)
    refused(tmp_path / "bits.h5", "bit fields")
    refused(write(tmp_path / "records.h5", x=np.zeros(5, "f4,i4")), "records")


def test_a_filter_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((50, 4))
    layout.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 4, 800, 5, 1, 0))
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        space = h5py.h5s.create_simple((100, 4))
        h5py.h5d.create(opened.id, b"x", h5py.h5t.IEEE_F32LE, space, layout)
    refused(tmp_path / "a.h5", "the filter 32001")


def test_scales_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", x=X)
    with h5py.File(file, "a") as opened:
        opened["x"].attrs.update({"scale_factor": 1.0, "add_offset": 0.0})
    assert inspect(file, {"x": "x"}).rows == 100
    with h5py.File(file, "a") as opened:
        opened["x"].attrs["add_offset"] = 273.15
    refused(file, "add_offset is 273.15, which is not applied")


def read(file: Path, dtype: str, *, cast: bool = False, finite: bool = False) -> InputValues:
    facts = inspect(file, {"x": "x"})
    wanted = {"x": np.dtype(dtype)}
    with open_data(facts, wanted, cast=cast, finite=finite) as data:
        data.read_rows("x", 0, facts.rows, np.empty(facts.datasets["x"].shape, dtype))
        return data.readers["x"][0].values


def test_netcdf_s_unsigned_integers_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", x=np.full((3, 1), -1, "i2"))
    with h5py.File(file, "a") as opened:
        opened["x"].attrs["_Unsigned"] = "true"
    refused(file, "_Unsigned is true, which is not applied")


def test_an_empty_array_of_matlab_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mat", x=np.array([0, 4], "u8"))
    with h5py.File(file, "a") as opened:
        opened["x"].attrs.update({"MATLAB_class": np.bytes_("double"), "MATLAB_empty": np.uint8(1)})
    refused(file, "stores its shape in place of values")


def test_axes_in_matlabs_order_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "a.mat", x=np.zeros((5, 3, 2), "f8"))
    read(file, "f8")
    assert not caplog.messages
    with h5py.File(file, "a") as opened:
        opened["x"].attrs["MATLAB_class"] = np.bytes_("double")
    read(file, "f8")
    (said,) = caplog.messages
    assert "(5, 3, 2) is read, which is (2, 3, 5) in MATLAB" in said
    assert "permute(x, [3, 2, 1])" in said


@pytest.mark.parametrize(
    ("name", "value"), [("scale_factor", 10.0), ("_FillValue", 5.0), ("valid_max", 300.0)]
)
def test_what_a_source_says_of_its_values_counts(tmp_path: Path, name: str, value: float) -> None:
    write(tmp_path / "part.h5", raw=X)
    file = write_virtual(tmp_path / "v.h5", "part.h5")
    assert inspect(file, {"x": "x"}).rows == 100
    with h5py.File(tmp_path / "part.h5", "a") as opened:
        opened["raw"].attrs[name] = value
    refused(file, f"attribute {name}")


@pytest.mark.parametrize(
    ("name", "value"), [("valid_range", [0.0, 398.0]), ("valid_min", 1), ("valid_max", [398.5])]
)
def test_values_that_are_not_valid_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    file = write(tmp_path / "a.h5", x=X)
    with h5py.File(file, "a") as opened:
        opened["x"].attrs[name] = value
    with pytest.raises(DataError, match="has values outside of its valid range"):
        read(file, "f4")
    with h5py.File(file, "a") as opened:
        opened["x"].attrs[name] = "-1, 1"
    with pytest.raises(DataError, match=f"its attribute {name} is '-1, 1', no number"):
        read(file, "f4")


def test_what_was_never_written_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "never.h5", "w") as opened:
        opened.create_dataset("x", (100, 4), "f4")
    refused(tmp_path / "never.h5", "400 of its 400 values were never written")
    with h5py.File(tmp_path / "half.h5", "w") as opened:
        opened.create_dataset("x", (100, 4), "f4", chunks=(30, 3))[:50] = 1
    refused(tmp_path / "half.h5", "4 of its 8 chunks were never written, and would be read as 0.0")
    write(tmp_path / "part.h5", raw=X)
    with h5py.File(tmp_path / "hole.h5", "w") as opened:
        layout = h5py.VirtualLayout((200, 4), "f4")
        layout[100:] = h5py.VirtualSource("part.h5", "raw", (100, 4))
        opened.create_virtual_dataset("x", layout)
    refused(tmp_path / "hole.h5", "400 of its 800 values were never written")


def test_netcdf_s_own_fill_value_is_refused_where_it_is_used(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        x = opened.create_dataset("x", (100, 4), "f4", fillvalue=9.969209968386869e36)
        x[:99] = 1
    with pytest.raises(DataError, match="has missing values"):
        read(tmp_path / "a.h5", "f4")


def test_whole_numbers_stay_exact(tmp_path: Path) -> None:
    read(write(tmp_path / "a.h5", x=np.full((3, 1), 2**60)), "f8")
    odd = write(tmp_path / "b.h5", x=np.full((3, 1), 1126259462391000001))
    with pytest.raises(DataError, match="1126259462391000001, near row 0, is not a float64"):
        read(odd, "f8")
    read(odd, "f8", cast=True)


def test_a_number_that_would_become_infinite_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", x=np.array([[1.0], [65520.0]]))
    with pytest.raises(DataError, match=r"65520\.0, near row 0, is too large for float16"):
        read(file, "f2", cast=True)


def test_a_fill_value_is_refused_where_it_is_used(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", x=X)
    with h5py.File(file, "a") as opened:
        opened["x"].attrs["_FillValue"] = np.float32(1e20)
    read(file, "f4")
    with h5py.File(file, "a") as opened:
        opened["x"][7, 1] = 1e20
    with pytest.raises(DataError, match="has missing values"):
        read(file, "f4")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_values_that_are_not_finite_are_counted_or_refused(tmp_path: Path, dtype: str) -> None:
    x = np.ones((9, 4), dtype)
    x[3, 1], x[4, 2], x[5, 0] = np.nan, np.inf, -np.inf
    file = write(tmp_path / "a.h5", x=x)
    assert read(file, dtype).n_not_finite == 3
    with pytest.raises(DataError, match="has values that are not finite, 3 of them"):
        read(file, dtype, finite=True)


def test_damaged_rows_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened.create_dataset("x", data=np.ones((4000, 4), "f4"), chunks=(500, 4), fletcher32=True)
    with h5py.File(tmp_path / "a.h5") as opened:
        place = opened["x"].id.get_chunk_info(6).byte_offset
    with (tmp_path / "a.h5").open("r+b") as file:
        file.seek(place + 10)
        file.write(b"\xff")
    with pytest.raises(DataError, match="dataset 'x': rows 0 to 3999 cannot be read"):
        read(tmp_path / "a.h5", "f4")


def test_sample_rates_and_units_agree_also_where_the_first_file_says_none(tmp_path: Path) -> None:
    none, *files = [write(tmp_path / name, x=X) for name in ("none.h5", "a.h5", "b.h5")]
    for rate, file in zip((4096, 2048), files, strict=True):
        with h5py.File(file, "a") as opened:
            opened["x"].attrs.update({"sample_rate": rate, "units": str(rate)})
    facts = [inspect(file, {"x": "x"}) for file in (none, *files)]
    with pytest.raises(DataError, match=r"b\.h5, dataset 'x': has a sample rate of 2048"):
        check_agreement(facts)
    with pytest.raises(DataError, match=r"b\.h5, dataset 'x': has units '2048'"):
        check_agreement(facts, with_rates=False)
    check_agreement(facts[:2])


def test_a_pattern_does_not_catch_results(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", x=X)
    with h5py.File(write(tmp_path / "merged.h5", y=X), "a") as opened:
        opened.attrs["fingerprint"] = "f"
    with pytest.raises(ParameterError, match="matches results of earlier runs"):
        find_files([str(tmp_path / "*.h5")])
    assert len(find_files([str(tmp_path / "merged.h5")])) == 1


def test_units_agree(tmp_path: Path) -> None:
    files = [write(tmp_path / name, x=X) for name in ("a.h5", "b.h5", "c.h5")]
    for units, file in zip(("m", b"cm"), files[:2], strict=True):
        with h5py.File(file, "a") as opened:
            opened["x"].attrs["units"] = units
    facts = [inspect(file, {"x": "x"}) for file in files]
    check_agreement([facts[0], facts[2]])  # one does not say
    with pytest.raises(DataError, match=r"b\.h5, dataset 'x': has units 'cm', but .*a\.h5 has 'm'"):
        check_agreement(facts)


@pytest.mark.parametrize("how", [Path.symlink_to, Path.hardlink_to])
def test_one_file_by_two_names_is_refused(tmp_path: Path, how: Any) -> None:
    file = write(tmp_path / "run.h5", x=X)
    how(tmp_path / "latest.h5", file)
    with pytest.raises(ParameterError, match="are one file, whose rows would count twice"):
        find_files([str(tmp_path / "*.h5")])
    assert find_files([str(file), f"{tmp_path}/run*.h5"]) == (file,)
