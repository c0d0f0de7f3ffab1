"""A run without targets says what the values of its outputs are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.report import build_report
from hermes.aeriel.report._page import render_report
from hermes.aeriel.validation import _outputs, describe_outputs


def describe(tmp_path: Path, **outputs: Any) -> list[dict[str, Any]]:
    with h5py.File(tmp_path / "merged.h5", "w") as merged:
        merged["index/file"] = [0]
        for name, values in outputs.items():
            merged[name] = values
    return describe_outputs(tmp_path / "merged.h5")


@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_values_are_counted_and_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, block_bytes: int
) -> None:
    monkeypatch.setattr(_outputs, "BLOCK_BYTES", block_bytes)
    values = np.random.default_rng(0).normal(10, 1, size=(200, 3)).astype(dtype)
    values[3], values[7, 0], values[9, 1] = np.nan, np.inf, -np.inf
    (facts,) = describe(tmp_path, y=values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert (facts["output"], facts["dtype"], facts["shape"]) == ("y", str(values.dtype), [3])
    assert (facts["n_values"], facts["n_nan"], facts["n_infinite"]) == (600, 3, 2)
    assert (facts["min"], facts["max"]) == (finite.min(), finite.max())
    assert facts["mean"] == pytest.approx(finite.mean())
    assert facts["std"] == pytest.approx(finite.std())
    histogram = facts["histogram"]
    assert histogram["counts"] == np.histogram(finite, histogram["edges"])[0].tolist()
    assert sum(histogram["counts"]) == 595


def test_labels_have_a_bin_each_and_constants_one_that_has_a_width(tmp_path: Path) -> None:
    labels, constant, flags = describe(
        tmp_path, a=np.array([3, 5, 5, 3, 4]), b=np.full(9, 1e6), c=np.array([True, False])
    )
    assert labels["histogram"] == {"edges": [2.5, 3.5, 4.5, 5.5], "counts": [2, 1, 2]}
    assert sum(constant["histogram"]["counts"]) == 9
    assert flags["histogram"]["counts"] == [1, 1]


@pytest.mark.parametrize("values", [[2**60] * 3, [2**60, 2**60 + 1, 2**60 + 40], [-(2**62)] * 3])
def test_whole_numbers_beyond_those_of_float64_are_described_too(
    tmp_path: Path, values: list[int]
) -> None:
    (facts,) = describe(tmp_path, y=np.array(values))
    assert (facts["min"], facts["max"]) == (float(min(values)), float(max(values)))
    assert sum(facts["histogram"]["counts"]) == 3


def test_numbers_whose_squares_are_no_numbers_are_described_too(tmp_path: Path) -> None:
    (facts,) = describe(tmp_path, y=np.array([1e200, 3e200]))
    assert (facts["mean"], facts["std"]) == (2e200, np.inf)
    assert sum(facts["histogram"]["counts"]) == 2
    assert "1e+200" in render_report(build_report(title="", predictions=[facts]))


def test_strings_rows_of_varying_length_and_nothing_but_nan_are_described_too(
    tmp_path: Path,
) -> None:
    with h5py.File(tmp_path / "merged.h5", "w") as merged:
        merged["boxes/offsets"], merged["boxes/values"] = [0, 2, 3], np.ones((3, 4))
        merged["names"] = ["a", "b"]
        merged["nothing"] = np.full(4, np.nan)
        merged["none"] = np.empty((0, 2))
    boxes, names, none, nothing = describe_outputs(tmp_path / "merged.h5")
    assert (boxes["shape"], boxes["n_values"], boxes["mean"]) == (None, 12, 1)
    assert names == {"output": "names", "dtype": "string", "shape": []}
    assert (none["n_values"], "min" in none) == (0, False)
    assert (nothing["n_nan"], "histogram" in nothing) == (4, False)


def test_the_page_shows_a_row_and_a_histogram_for_each_output(tmp_path: Path) -> None:
    facts = describe(tmp_path, **{"<y>": np.array([1.0, np.nan, 3.0]), "z": np.arange(3)})
    page = render_report(build_report(title="", predictions=facts))
    assert re.findall(r'<svg role="img" aria-label="([^"]*)"', page) == [
        "Values of &lt;y&gt;",
        "Values of z",
    ]
    assert "&lt;y&gt;" in page
    assert '<td class="number bad">1</td>' in page
