"""Small ONNX models in a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

Tensor = tuple[str, int, Sequence[Any]]


def write_model(
    repository: Path,
    name: str,
    nodes: Sequence[Any],
    inputs: Sequence[Tensor],
    outputs: Sequence[Any],
    *,
    config: str | None = None,
    file: str = "model.onnx",
    constants: Sequence[Any] = (),
    opset: int = 17,
) -> None:
    """Write a model of some nodes; an output may be a description of ONNX's own."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [
            helper.make_tensor_value_info(*tensor) if isinstance(tensor, tuple) else tensor
            for tensor in outputs
        ],
        initializer=constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    path = repository / name / "1" / file
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)


def write_double(repository: Path, name: str, **options: Any) -> None:
    """Write y = x + x."""
    kind = options.pop("kind", TensorProto.FLOAT)
    shape = options.pop("shape", ["n", 3])
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    write_model(repository, name, nodes, [("x", kind, shape)], [("y", kind, shape)], **options)


def write_identity(
    repository: Path, name: str, kind: int, shape: Sequence[Any], config: str | None = None
) -> None:
    """Write y = x."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    tensors = ([("x", kind, shape)], [("y", kind, shape)])
    write_model(repository, name, nodes, *tensors, config=config)
