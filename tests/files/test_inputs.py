"""What a dataset can be read as."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import (
    DatasetFacts,
    InputFacts,
    Location,
    check_against_model,
    check_agreement,
    inspect,
)
from hermes.errors import DataError


def check(given: str, wanted: str, *, cast: bool) -> None:
    dataset = DatasetFacts(
        locations=(Location(file=Path("a.h5"), path="x"),), shape=(5, 3), dtype=np.dtype(given)
    )
    facts = InputFacts(files=(Path("a.h5"),), rows=5, datasets={"x": dataset})
    check_against_model(facts, {"x": ((3,), np.dtype(wanted))}, cast=cast)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize(
    ("given", "wanted"), [("f4", "f4"), (">f4", "f4"), ("f2", "f8"), ("i2", "i4"), ("i2", "f4")]
)
def test_what_loses_nothing_is_read(given: str, wanted: str, cast: bool) -> None:
    check(given, wanted, cast=cast)


@pytest.mark.parametrize(("given", "wanted"), [("f8", "f4"), (">f8", "f2"), ("i8", "f4")])
def test_what_is_rounded_has_to_be_asked_for(given: str, wanted: str) -> None:
    with pytest.raises(DataError, match="or give cast, to round it to float"):
        check(given, wanted, cast=False)
    check(given, wanted, cast=True)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize(
    ("given", "wanted"), [("i8", "i4"), ("f8", "i4"), ("c8", "f4"), ("u4", "i4"), ("f4", "i8")]
)
def test_what_would_be_another_number_is_refused(given: str, wanted: str, cast: bool) -> None:
    with pytest.raises(DataError, match=r"export the model for its dtype$"):
        check(given, wanted, cast=cast)


def test_an_optional_input_takes_its_dataset_where_there_is_one(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = np.zeros((3, 2), "f4")
            if name == "a.h5":
                file["mask"] = np.zeros((3, 2), "f4")

    def found(name: str, optional: Sequence[str] = ()) -> InputFacts:
        return inspect(tmp_path / name, {}, model_inputs=["x", "mask"], optional=optional)

    with_mask, without = found("a.h5", ["mask"]), found("b.h5", ["mask"])
    assert list(with_mask.datasets) == ["x", "mask"]
    assert list(without.datasets) == ["x"]
    check_agreement([with_mask, without])
    with pytest.raises(DataError, match="'mask': not found"):
        found("b.h5")
    with pytest.raises(DataError, match="no dataset for any of the model's inputs"):
        inspect(tmp_path / "b.h5", {}, model_inputs=["u", "v"], optional=["u", "v"])


@pytest.mark.parametrize("path", ["größe", "straße/ü", "soft", "outside"])
def test_names_within_a_file_are_utf8_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["straße/ü"] = np.zeros(4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["größe"] = file["straße/ü"] = np.zeros(4)
        file["soft"] = h5py.SoftLink("/straße/ü")
        file["outside"] = h5py.ExternalLink("other.h5", "/straße/ü")
    # As of a user whose locale is de_DE.ISO-8859-1.
    monkeypatch.setattr(os, "fsencode", lambda name: os.fspath(name).encode("latin-1"))
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("latin-1"))
    assert inspect(tmp_path / "a.h5", {"x": path}).rows == 4
    with pytest.raises(DataError, match=r"'größe'.* 'straße/ü'"):
        inspect(tmp_path / "a.h5", {"x": "missing"})
