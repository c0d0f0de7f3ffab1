"""Targets that cannot be compared with a model's output are refused before a server starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.client import ModelSpecification, TensorSpecification
from hermes.aeriel.files import DatasetFacts, InputFacts, Location
from hermes.aeriel.metrics._target import check_target
from hermes.errors import DataError, HermesError, ParameterError

from .conftest import Luigi


def model(*, rows: int = 8, **outputs: tuple[int, ...]) -> ModelSpecification:
    tensors = {"x": (-1, 4) if rows == 0 else (4,), **outputs}
    described = {
        name: TensorSpecification(name=name, datatype="FP32", shape=shape)
        for name, shape in tensors.items()
    }
    return ModelSpecification(
        name="model",
        version="",
        platform="",
        inputs={"x": described.pop("x")},
        outputs=described,
        max_batch_size=rows,
    )


def check(target: tuple[int, ...], described: ModelSpecification | None, **options: Any) -> None:
    dtype = np.dtype(options.pop("dtype", "f4"))
    facts = InputFacts(
        files=(Path("a.h5"),),
        rows=10,
        datasets={},
        target=DatasetFacts(
            locations=(Location(file=Path("a.h5"), path="t"),), shape=(10, *target), dtype=dtype
        ),
    )
    metrics = options.pop("metrics", ["mse"])
    chosen = {"kept": (), "output_name": "", "varying": (), "is_cut": False, **options}
    check_target(facts, metrics, described, **chosen)


@pytest.mark.parametrize(
    ("output", "target", "metric"),
    [
        ((3,), (3,), "mse"),
        ((1,), (), "mae"),
        ((), (1,), "reference"),
        ((-1, 2), (7, 2), "reference"),
        ((-1,), (), "mse"),
        ((3,), (), "accuracy"),
        ((3,), (1,), "log_loss"),
        ((3,), (3,), "roc_auc"),
        ((-1,), (5,), "top_3_accuracy"),
        ((1,), (2,), "accuracy"),
    ],
)
def test_targets_that_fit(output: tuple[int, ...], target: tuple[int, ...], metric: str) -> None:
    check(target, model(y=output), metrics=[metric])
    check(target, model(rows=0, y=(-1, *output)), metrics=[metric])


@pytest.mark.parametrize(
    ("output", "target", "metric", "error"),
    [
        ((4,), (3,), "mse", DataError),
        ((4,), (), "mae", DataError),
        ((), (2,), "reference", DataError),
        ((3,), (4,), "accuracy", DataError),
        ((3,), (3, 1), "accuracy", DataError),
        ((3, 2), (), "accuracy", ParameterError),
    ],
)
def test_targets_that_do_not_fit(
    output: tuple[int, ...], target: tuple[int, ...], metric: str, error: type[HermesError]
) -> None:
    with pytest.raises(error, match=metric):
        check(target, model(y=output), metrics=[metric])


def test_what_only_a_server_knows_is_left_to_it() -> None:
    check((9, 9), None)
    check((9, 9), model(rows=0, y=(4,)), is_cut=True)


def test_the_output_to_compare_is_known_before() -> None:
    two = model(y=(3,), z=(4,))
    check((4,), two, output_name="z")
    check((4,), two, kept=("z",))
    with pytest.raises(ParameterError, match=r"output_name: has to be given; .*'y', 'z'"):
        check((4,), two)
    with pytest.raises(ParameterError, match="output_name: 'w' is not an output"):
        check((4,), two, output_name="w")
    two.check_outputs(["z"])
    with pytest.raises(
        ParameterError, match=r"outputs: model 'model' has no output 'w'; it has \['y', 'z'\]"
    ):
        two.check_outputs(["z", "w"])


@pytest.mark.parametrize(
    ("described", "options"),
    [
        (model(y=(-1, 4)), {}),
        (model(y=(-1, 4), z=(4,)), {"output_name": "y"}),
        (model(y=(-1, 4), z=(4,)), {"kept": ("y",)}),
        (model(rows=0, y=(-1, 4)), {"is_cut": True}),
        (None, {"output_name": "y"}),
    ],
)
def test_an_output_of_varying_length_has_no_metrics(
    described: ModelSpecification | None, options: dict[str, Any]
) -> None:
    with pytest.raises(ParameterError, match="output_name: 'y' is of varying length, and metrics"):
        check((4,), described, varying=("y",), **options)
    check((4,), model(y=(-1, 4), z=(4,)), varying=("y",), output_name="z")


@pytest.mark.parametrize("kind", ["text", "shape"])
def test_a_validation_says_so_before_a_server_starts(
    luigi: Luigi, models: Path, tmp_path: Path, kind: str
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((10, 4), "f4")
        if kind == "text":
            file.create_dataset("t", data=["cat"] * 10, dtype=h5py.string_dtype())
        else:
            file["t"] = np.zeros((10, 3), "f4")
    options = ["--inputs=a.h5", "--target=t", '--input-map={"x": "x"}', "--output-name=double"]
    where = [f"--model-repository={models}", "--output-dir=out"]
    ran = luigi("--module=workflows.validate", "Validate", "--model-name=double", *where, *options)
    assert ran.returncode == 35
    last = ran.stdout.splitlines()[-1]
    assert last.startswith(f"hermes: {tmp_path / 'a.h5'}, dataset 't': is the target, and ")
    assert last.endswith("want numbers" if kind == "text" else "as the model's output has them")
    assert not (tmp_path / "out" / "predictions").exists()
    assert not (tmp_path / "out" / "logs").exists()
