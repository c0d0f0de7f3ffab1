"""The `onnx` package's backend cases: each a model, inputs, and the outputs that it has to have.

https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import onnx
import onnxruntime
import tritonclient.grpc as triton
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.runner import Runner
from tritonclient.utils import InferenceServerException

from hermes.aeriel.client import Endpoint, InferenceClient
from hermes.aeriel.files import (
    InferenceOptions,
    NamedServer,
    infer_files,
    output_name,
    plan_files,
)
from hermes.errors import HermesError

Tensors = dict[str, NDArray[Any]]
Verdict = Literal["right", "refused", "wrong", "not for onnxruntime"]

# What may be refused: sequences, optional values, and elements of less than 8 bits, for example.
NO_TYPE = "is not supported by Triton"

# They answer the same request with other numbers.
RANDOM = {"Bernoulli", "Dropout", "Multinomial"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with what goes in and what has to come out; not only tensors."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    expected: Sequence[Any]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Outcome:
    """What became of a case, and why."""

    name: str
    verdict: Verdict
    reason: str = ""
    # Whether rows of it went through a file too.
    in_file: bool = False
    # Where onnxruntime itself is further from what a case expects than it allows.
    beyond: str = ""


def node_cases() -> list[Case]:
    """Return the cases of single operators, sorted by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the numpy code that computes what is expected
        from onnx.backend.test.loader import load_model_tests

        tests: list[Any] = load_model_tests(kind="node")
    return [
        Case(
            name=test.name,
            model=test.model,
            inputs=dict(
                zip((i.name for i in test.model.graph.input), map(_value, inputs), strict=False)
            ),
            expected=[_value(value) for value in outputs],
            rtol=test.rtol,
            atol=test.atol,
        )
        for test in sorted(tests, key=lambda test: str(test.name))
        for inputs, outputs in test.data_sets
    ]


def write_case(repository: Path, case: Case) -> None:
    """Write the model of a case into a repository, without a configuration."""
    (repository / case.name / "1").mkdir(parents=True)
    onnx.save(case.model, repository / case.name / "1" / "model.onnx")


def run_in_process(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> list[Any]:
    """Return what onnxruntime answers here; BF16 as float32, as hermes' client does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        _without_bf16(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # Copied: the last bits of a sum depend on whether an array begins at a multiple of 16 bytes. A
    # new one does, and those that Triton hands over do.
    feeds = {
        name: value.astype(np.float32) if _is_bf16(value) else copy(value)
        for name, value in inputs.items()
    }
    return list(session.run(None, feeds))


def try_case(
    case: Case, endpoint: Endpoint, admin: triton.InferenceServerClient, directory: Path
) -> Outcome:
    """Return how a server with explicit model control answers a case, and a file of such rows.

    The directory gets the files.
    """
    try:
        answers = run_in_process(case.model, case.inputs)
    except Exception as error:  # noqa: BLE001 - it has many kinds of its own
        return Outcome(case.name, "not for onnxruntime", one_line(error))
    try:
        admin.load_model(case.name)
        with InferenceClient(endpoint, case.name) as client:
            # Triton has no scalars: it knows them as tensors of one element.
            arrays = {name: np.atleast_1d(value) for name, value in case.inputs.items()}
            served = client.infer(arrays).result()
        rows = in_rows(case)
        predictions = infer_rows(case.name, rows[0], endpoint, directory) if rows else {}
    except (InferenceServerException, HermesError) as error:
        return Outcome(case.name, "refused", one_line(error))
    finally:
        admin.unload_model(case.name)
    pairs = [
        (output.name, answer, served[output.name])
        for output, answer in zip(case.model.graph.output, answers, strict=True)
    ]
    if rows:
        pairs += [
            (f"row {row} of {name} in a file", answer, predictions[name][row])
            for name, of_rows in rows[1].items()
            for row, answer in enumerate(of_rows)
        ]
    for name, answer, given in pairs:
        if problem := difference(answer, given):
            return Outcome(case.name, "wrong", f"{name}: {problem}")
    return Outcome(
        case.name, "right", in_file=rows is not None, beyond=beyond_tolerance(case, answers)
    )


def infer_rows(model: str, rows: Tensors, endpoint: Endpoint, directory: Path) -> Tensors:
    """Return the predictions of a file with these rows."""
    file = directory / f"{model}.h5"
    with h5py.File(file, "w") as opened:
        for name, values in rows.items():
            opened[name] = values
    options = InferenceOptions(model_name=model)
    jobs = plan_files(options, [(file,)], directory / "out", model_stamp="")
    infer_files(NamedServer(endpoint), jobs)
    with h5py.File(directory / "out" / file.name) as opened:
        return {output_name(name): dataset[...] for name, dataset in opened.items()}


def in_rows(case: Case) -> tuple[Tensors, dict[str, list[Any]]] | None:
    """Return a case as rows: the inputs of several requests, and what onnxruntime answers to each.

    A model with fixed dimensions takes a request for a row. The rows are the inputs of the case,
    with their values moved along the last dimension. None where it has other inputs than arrays of
    numbers, does not take them moved, gives outputs of varying shapes, or is random.
    """
    if any(node.op_type in RANDOM for node in case.model.graph.node):
        return None
    values = case.inputs.values()
    if not values or any(
        not isinstance(value, np.ndarray) or not value.size or value.dtype.kind not in "biuf"
        for value in values
    ):
        return None
    rows = {
        name: np.stack([np.roll(np.atleast_1d(value), row, axis=-1) for row in range(3)])
        for name, value in case.inputs.items()
    }
    names = [output.name for output in case.model.graph.output]
    try:
        answers = [
            run_in_process(
                case.model,
                {n: rows[n][row].reshape(value.shape) for n, value in case.inputs.items()},
            )
            for row in range(3)
        ]
    except Exception:  # noqa: BLE001 - it has many kinds of its own
        return None
    of_rows = {name: [row[i] for row in answers] for i, name in enumerate(names)}
    if any(len({np.shape(value) for value in values}) > 1 for values in of_rows.values()):
        return None
    return rows, of_rows


def difference(expected: Any, served: NDArray[Any]) -> str:
    """Return how an output differs from what it has to be to the bit, if it does."""
    if served.dtype == object:
        served = np.array([value.decode() for value in served.ravel()], object).reshape(
            served.shape
        )
    try:
        np.testing.assert_array_equal(served, np.atleast_1d(expected), strict=True)
    except AssertionError as error:
        return str(error)
    return ""


def beyond_tolerance(case: Case, answers: Sequence[Any]) -> str:
    """Return where onnxruntime itself is further from a case's outputs than that allows."""
    expected = [value.astype(np.float32) if _is_bf16(value) else value for value in case.expected]
    try:
        Runner.assert_similar_outputs(expected, answers, case.rtol, case.atol)
    except AssertionError as error:
        return one_line(error)
    return ""


def one_line(error: Exception) -> str:
    """Return what an error says, without line breaks, and not all of it."""
    return re.sub(r"\s+", " ", str(error))[:1000]


def _without_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that takes and gives FP32 instead of BF16, which numpy does not have."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    casts = []
    for tensors, ends in ((changed.graph.input, "before"), (changed.graph.output, "after")):
        for tensor in tensors:
            if tensor.type.tensor_type.elem_type != TensorProto.BFLOAT16:
                continue
            outer, inner = tensor.name, f"{tensor.name} as bf16"
            for node in changed.graph.node:
                for names in (node.input, node.output):
                    names[:] = [inner if name == outer else name for name in names]
            tensor.type.tensor_type.elem_type = TensorProto.FLOAT
            source, target = (outer, inner) if ends == "before" else (inner, outer)
            to = TensorProto.BFLOAT16 if ends == "before" else TensorProto.FLOAT
            casts.append((ends, helper.make_node("Cast", [source], [target], to=to)))
    before, after = ([node for end, node in casts if end == e] for e in ("before", "after"))
    nodes = [*before, *changed.graph.node, *after]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def _value(value: Any) -> Any:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _is_bf16(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.name == "bfloat16"
