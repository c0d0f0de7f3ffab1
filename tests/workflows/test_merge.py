"""Merging keeps every row, and says where each came from."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.validation import Part, _index, _merge, merge
from hermes.errors import DataError, ParameterError


def make_part(directory: Path, name: str, rows: np.ndarray, **extra: object) -> Part:
    with h5py.File(directory / f"{name}-input.h5", "w") as file:
        file["label"] = np.arange(len(rows))
    with h5py.File(directory / f"{name}.h5", "w") as file:
        file["y"] = rows
        for key, value in extra.items():
            file[key] = value
    return Part(
        input_files=(directory / f"{name}-input.h5",),
        predictions=directory / f"{name}.h5",
        rows=len(rows),
    )


def run(parts: list[Part], output: Path, target: str | None = "label") -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    merge(
        parts,
        output,
        target=target,
        fingerprint="f",
        attributes={"model": "m"},
        on_progress=lambda done, total: seen.append((done, total)),
    )
    return seen


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_rows_are_in_order_with_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(_merge, "BLOCK_BYTES", max(8, block_bytes))
    monkeypatch.setattr(_index, "BLOCK_BYTES", max(8, block_bytes))
    rng = np.random.default_rng(0)
    data = [rng.standard_normal((n, 2, 3)) for n in (3, 1, 70)]
    words = [[f"{i}-{k}" for k in range(len(x))] for i, x in enumerate(data)]
    parts = [make_part(tmp_path, f"p{i}", x, word=words[i]) for i, x in enumerate(data)]
    assert run(parts, tmp_path / "merged.h5") == [(3, 74), (4, 74), (74, 74)]
    with h5py.File(tmp_path / "merged.h5", "r") as file:
        assert np.array_equal(file["y"], np.concatenate(data))
        assert [word.decode() for word in file["word"]] == [word for part in words for word in part]
        assert list(file["index/file"]) == [0] * 3 + [1] + [2] * 70
        assert list(file["index/row"]) == [*range(3), 0, *range(70)]
        assert list(file["index/offsets"]) == [0, 3, 4, 74]
        assert list(file["target"]) == [*range(3), 0, *range(70)]
        assert [Path(name.decode()) for name in file["index/files"]] == [
            part.input_files[0] for part in parts
        ]
        assert file.attrs["model"] == "m"


def test_parts_that_differ_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    parts = [
        make_part(tmp_path, "a", np.zeros((3, 2))),
        make_part(tmp_path, "b", np.zeros((3, 4))),
    ]
    with pytest.raises(DataError, match=r"b\.h5, dataset 'y': is float64 of shape \(3, 4\), not"):
        run(parts, tmp_path / "merged.h5")
    assert not [path for path in tmp_path.iterdir() if "merged" in path.name]


def test_parts_with_different_outputs_are_refused(tmp_path: Path) -> None:
    parts = [
        make_part(tmp_path, "a", np.zeros((3, 2)), z=np.zeros(3)),
        make_part(tmp_path, "b", np.zeros((3, 2))),
    ]
    for order in (parts, parts[::-1]):
        with pytest.raises(DataError, match=r"has the outputs .*, but the files before \["):
            run(order, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


def test_an_output_may_not_have_a_name_of_the_merged_file(tmp_path: Path) -> None:
    parts = [make_part(tmp_path, "a", np.zeros((3, 2)), target=np.zeros(3))]
    with pytest.raises(ParameterError, match="outputs: 'target' has a name that the merged file"):
        run(parts, tmp_path / "merged.h5")


def test_attributes_that_agree_are_kept_and_start_times_are_of_each_file(tmp_path: Path) -> None:
    parts = [make_part(tmp_path, name, np.zeros((3, 2))) for name in "abc"]
    common = {"window": 64, "stride": 16, "sample_rate": 4.0, "shifts": [0, 5]}
    for number, part in enumerate(parts):
        with h5py.File(part.predictions, "a") as file:
            file["y"].attrs.update({**common, "stride": 16 + number})
            if number < 2:
                file["y"].attrs["start_time"] = 1000.0 * number
    run(parts, tmp_path / "merged.h5")
    with h5py.File(tmp_path / "merged.h5") as file:
        kept = dict(file["y"].attrs)
        assert list(kept.pop("shifts")) == [0, 5]
        assert kept == {"window": 64, "sample_rate": 4.0}
        assert np.array_equal(file["index/start_time"], [0.0, 1000.0, np.nan], equal_nan=True)


def test_rows_without_times_have_none_in_the_index(tmp_path: Path) -> None:
    run([make_part(tmp_path, "a", np.zeros((3, 2)))], tmp_path / "merged.h5")
    with h5py.File(tmp_path / "merged.h5") as file:
        assert "start_time" not in file["index"]


def test_each_row_has_the_time_of_its_own_file(tmp_path: Path) -> None:
    parts = [make_part(tmp_path, name, np.zeros((3, 2))) for name in "abc"]
    for part, start in ((parts[1], 100.0), (parts[2], 200.0)):
        with h5py.File(part.predictions, "r+") as file:
            file["y"].attrs.update({"sample_rate": 2.0, "start_time": start})
    run(parts, tmp_path / "merged.h5")
    with h5py.File(tmp_path / "merged.h5", "r") as file:
        wanted = [np.nan] * 3 + [100.0, 100.5, 101.0, 200.0, 200.5, 201.0]
        np.testing.assert_array_equal(file["index/time"], wanted)
        np.testing.assert_array_equal(file["index/start_time"], [np.nan, 100.0, 200.0])


def test_other_rates_are_refused_though_the_first_file_says_none(tmp_path: Path) -> None:
    parts = [make_part(tmp_path, name, np.zeros((3, 2))) for name in "abc"]
    for part, rate in ((parts[1], 1.0), (parts[2], 2.0)):
        with h5py.File(part.predictions, "r+") as file:
            file["y"].attrs.update({"sample_rate": rate, "start_time": 0.0})
    with pytest.raises(DataError, match=r"c\.h5: has 2 rows in a second, but .*b\.h5 has 1"):
        run(parts, tmp_path / "merged.h5")
