"""HDF5 files of every dtype, storage and link, and models that take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.runtime.onnx_models import write_model

Storage = Literal["contiguous", "compact", "chunked", "gzip", "shuffle and lzf", "scaleoffset"]
Link = Literal["hard", "soft", "external", "virtual"]
ModelKind = Literal["batched", "free", "fixed"]
Rows = Mapping[str, NDArray[Any]]

# The model's dtype, and that of the dataset, by the name of both.
KINDS: dict[str, tuple[int, Any]] = {
    "bool": (TensorProto.BOOL, np.bool_),
    "uint8": (TensorProto.UINT8, np.uint8),
    "uint16": (TensorProto.UINT16, np.uint16),
    "uint32": (TensorProto.UINT32, np.uint32),
    "uint64": (TensorProto.UINT64, np.uint64),
    "int8": (TensorProto.INT8, np.int8),
    "int16": (TensorProto.INT16, np.int16),
    "int32": (TensorProto.INT32, np.int32),
    "int64": (TensorProto.INT64, np.int64),
    "float16": (TensorProto.FLOAT16, np.float16),
    "float32": (TensorProto.FLOAT, np.float32),
    "float64": (TensorProto.DOUBLE, np.float64),
    "text": (TensorProto.STRING, h5py.string_dtype()),
    "fixed text": (TensorProto.STRING, h5py.string_dtype("utf-8", 7)),
    "big-endian": (TensorProto.INT32, np.dtype(">i4")),
    "int16 for int32": (TensorProto.INT32, np.int16),
    "float32 for float64": (TensorProto.DOUBLE, np.float32),
}
WORDS = np.array(["", "a", "größer", "b'c'", "two\nlines", "日本"], np.object_)
ROWS = 23  # no multiple of any batch
FIXED = 4  # the first dimension of the model that has no free one
COLUMNS = 3
ORDER = [2, 0, 1]


def write_models(repository: Path) -> None:
    """Write a model of each kind: every output is an input with its columns in another order."""
    for kind, first in (("batched", "n"), ("free", "m"), ("fixed", FIXED)):
        nodes = [
            helper.make_node("Gather", [name, "order"], [f"y {name}"], axis=1) for name in KINDS
        ]
        order = helper.make_tensor("order", TensorProto.INT64, [COLUMNS], ORDER)
        tensors = [(name, code, [first, COLUMNS]) for name, (code, _) in KINDS.items()]
        write_model(
            repository,
            kind,
            nodes,
            tensors,
            [(f"y {name}", code, shape) for name, code, shape in tensors],
            constants=[order],
            # What is not listed is completed, with a batch dimension where the first one is free.
            config=_unbatched(tensors) if kind == "free" else None,
        )


def write_file(file: Path, storage: Storage, link: Link, kind: ModelKind) -> None:
    """Write a dataset for each input, stored and linked to in one way."""
    random = np.random.default_rng(9)
    shape = (ROWS, FIXED, COLUMNS) if kind == "fixed" else (ROWS, COLUMNS)
    other = file.with_suffix(".source")
    with h5py.File(file, "w") as opened, h5py.File(other, "w") as source:
        for name, (_, dtype) in KINDS.items():
            values = _values(random, dtype, shape)
            match link:
                case "hard":
                    _store(opened, name, values, dtype, storage)
                case "soft":
                    _store(opened, f"stored/{name}", values, dtype, storage)
                    opened[name] = h5py.SoftLink(f"/stored/{name}")
                case "external":
                    _store(source, name, values, dtype, storage)
                    opened[name] = h5py.ExternalLink(other.name, name)
                case "virtual":
                    layout = h5py.VirtualLayout(shape, dtype)
                    for part, rows in (("first", slice(0, 9)), ("rest", slice(9, ROWS))):
                        _store(source, f"{part}/{name}", values[rows], dtype, storage)
                        layout[rows] = h5py.VirtualSource(source[f"{part}/{name}"])
                    opened.create_virtual_dataset(name, layout)


def read_rows(file: Path) -> Rows:
    """Return the rows of a file as h5py reads them, of the model's dtypes."""
    with h5py.File(file) as opened:
        return {name: _read(opened[name]).astype(_dtype(code)) for name, (code, _) in KINDS.items()}


def answers_in_process(model: Path, kind: ModelKind, rows: Rows) -> dict[str, NDArray[Any]]:
    """Return what onnxruntime answers here, by the name of the input that it is made of."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = [f"y {name}" for name in KINDS]
    if kind != "fixed":
        answers = session.run(outputs, dict(rows))
    else:
        runs = [
            session.run(outputs, {name: values[row] for name, values in rows.items()})
            for row in range(ROWS)
        ]
        answers = [np.stack(parts) for parts in zip(*runs, strict=True)]
    return dict(zip(KINDS, answers, strict=True))


def read_predictions(file: Path) -> dict[str, NDArray[Any]]:
    """Return the outputs in a file of predictions, by the name of the input."""
    with h5py.File(file) as opened:
        return {name: _read(opened[f"y {name}"]) for name in KINDS}


def is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Tell whether arrays agree in dtype, shape and every bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return (
        one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()
    )


def _unbatched(tensors: list[tuple[str, int, list[Any]]]) -> str:
    def listed(prefix: str) -> str:
        return ", ".join(
            f'{{ name: "{prefix}{name}" data_type: TYPE_{_triton_name(code)} dims: [-1, 3] }}'
            for name, code, _ in tensors
        )

    return f'backend: "onnxruntime" input [{listed("")}] output [{listed("y ")}]'


def _triton_name(code: int) -> str:
    name = str(helper.tensor_dtype_to_string(code)).removeprefix("TensorProto.")
    return {"FLOAT16": "FP16", "FLOAT": "FP32", "DOUBLE": "FP64"}.get(name, name)


def _dtype(code: int) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(code))


def _values(random: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype = np.dtype(dtype)
    if h5py.check_string_dtype(dtype) is not None:
        words: NDArray[Any] = random.choice(WORDS, shape)
        if dtype.kind == "S":
            return np.array([word.encode()[:7] for word in words.ravel()], dtype).reshape(shape)
        return words
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(np.bool_)
    # Any bits: of floats too, with all kinds of NaN.
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(random.bytes(size), dtype).reshape(shape)


def _store(
    group: h5py.Group, path: str, values: NDArray[Any], dtype: Any, storage: Storage
) -> None:
    options: dict[str, Any] = {}
    if storage not in ("contiguous", "compact"):
        options["chunks"] = (5, *(2 for _ in values.shape[1:]))
    if storage == "gzip":
        options["compression"] = "gzip"
    elif storage == "shuffle and lzf":
        options.update(shuffle=True, compression="lzf")
    elif storage == "scaleoffset" and np.dtype(dtype).kind in "iu":  # loses digits of floats
        options["scaleoffset"] = 0
    dataset = group.create_dataset(path, values.shape, dtype, **options)
    if storage == "compact":
        del group[path]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(values.shape)
        kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
        identifier = h5py.h5d.create(group.id, path.encode(), kind, space, creation)
        dataset = h5py.Dataset(identifier)
    dataset[...] = values


def _read(dataset: h5py.Dataset) -> NDArray[Any]:
    text = h5py.check_string_dtype(dataset.dtype) is not None
    values: NDArray[Any] = dataset.asstr()[...].astype(object) if text else dataset[...]
    return values
