"""Models that keep a state between requests."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

# The sum of what a sequence has sent so far; it has to begin at its start.
RUNNING_SUM = """
    sums = {}

    def answer(self, request):
        x = array(request, "x")
        if x.max() > 100:
            time.sleep(float(x.max()) - 100)
        sequence = int(array(request, "id").item())
        if array(request, "start").item():
            self.sums[sequence] = 0 * x
        self.sums[sequence] = self.sums[sequence] + x
        return response(y=self.sums.pop(sequence) if array(request, "end").item()
                        else self.sums[sequence])
"""

BATCHING = """
sequence_batching {
  max_sequence_idle_microseconds: 1000000
  oldest { max_candidate_sequences: 3 }
  control_input [
    { name: "start" control [{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] },
    { name: "end" control [{ kind: CONTROL_SEQUENCE_END fp32_false_true: [0, 1] }] },
    { name: "id" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
  ]
}
"""

IMPLICIT = """
platform: "onnxruntime_onnx"
max_batch_size: 4
instance_group [{ kind: KIND_CPU }]
input [{ name: "x", data_type: TYPE_FP32, dims: [1] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [1] }]
sequence_batching {
  direct {}
  state [{
    input_name: "before" output_name: "after" data_type: TYPE_FP32 dims: [1]
    initial_state { name: "zero" data_type: TYPE_FP32 dims: [1] zero_data: true }
  }]
}
"""

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input [{ name: "x", data_type: TYPE_FP32, dims: [1] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [1] }]
ensemble_scheduling {
  step [
    { model_name: "echo" model_version: -1
      input_map { key: "x" value: "x" } output_map { key: "y" value: "echoed" } },
    { model_name: "%s" model_version: -1
      input_map { key: "x" value: "echoed" } output_map { key: "y" value: "y" } }
  ]
}
"""


def write_implicit_model(repository: Path, name: str) -> None:
    """Write an ONNX model whose state, the sum so far, the server keeps."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    nodes = [
        helper.make_node("Add", ["x", "before"], ["y"]),
        helper.make_node("Identity", ["y"], ["after"]),
    ]
    ins, outs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in names]
        for names in (("x", "before"), ("y", "after"))
    )
    graph = helper.make_graph(nodes, "sum", ins, outs)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), version / "model.onnx")
    (version.parent / "config.pbtxt").write_text(IMPLICIT)


def write_ensemble(repository: Path, name: str, step: str) -> None:
    """Write an ensemble of the model ``echo`` and a model with a state."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(ENSEMBLE % step)
