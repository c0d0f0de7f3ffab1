"""Triton's `onnxruntime` backend, in Python: it serves stock ONNX repositories unchanged.

Triton runs it inside its Python stub, for every model whose configuration says
`backend: "onnxruntime"` or `platform: "onnxruntime_onnx"`, or that has a `model.onnx` and no
configuration. It completes and accepts the same configurations as Triton's own backend:
https://github.com/triton-inference-server/onnxruntime_backend
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from hermes_batching import answer_requests
from hermes_bf16 import bits_of, exchangeable
from hermes_sequences import SequenceStates, declared_states, sequence_inputs
from hermes_session import default_max_batch_size, open_session

BF16 = "tensor(bfloat16)"
BF16_IN_ONNX = 16  # onnx.TensorProto.BFLOAT16
TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
    BF16: "TYPE_BF16",
}


class TritonPythonModel:
    """One instance of an ONNX model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        session = open_session(pb_utils.get_model_dir(), config)
        batchable = all(
            tensor.shape and not _is_fixed(tensor.shape[0])
            for tensor in [*session.get_inputs(), *session.get_outputs()]
            if tensor.type in TYPES
        )
        if not batchable and config["max_batch_size"]:
            raise pb_utils.TritonModelException(
                f"model {config['name']!r} cannot have max_batch_size {config['max_batch_size']}: "
                "the first dimension of its inputs and outputs is fixed"
            )
        size = config["max_batch_size"] or (default_max_batch_size() if batchable else 0)
        auto_complete_model_config.set_max_batch_size(size)
        if size > 1 and "sequence_batching" not in config:
            auto_complete_model_config.set_dynamic_batching()
        # add_input and add_output do not support `reshape`, which scalars need.
        inner = {*sequence_inputs(config), *(s["output_name"] for s in declared_states(config))}
        for kind, found in (("input", session.get_inputs()), ("output", session.get_outputs())):
            if not config[kind]:
                config[kind] = [
                    _described(kind, config, tensor, batched=size > 0)
                    for tensor in found
                    if tensor.name not in inner
                ]
        return auto_complete_model_config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        version = Path(args["model_repository"]) / args["model_version"]
        on_gpu = args["model_instance_kind"] == "GPU"
        device = int(args["model_instance_device_id"]) if on_gpu else None
        self.session = open_session(version, config, device)
        self.batched = config["max_batch_size"] > 0
        self.states = SequenceStates(config)
        self.outputs = [wanted["name"] for wanted in config["output"]]

        inputs = {tensor.name: tensor for tensor in _all_inputs(self.session)}
        outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        states = declared_states(config)
        taken = [*config["input"], *({**s, "name": s["input_name"]} for s in states)]
        given = [*config["output"], *({**s, "name": s["output_name"]} for s in states)]
        _check("input", config, taken, inputs)
        _check("output", config, given, outputs)
        unlisted = {tensor.name for tensor in self.session.get_inputs()} - {
            *sequence_inputs(config),
            *(wanted["name"] for wanted in taken),
        }
        if unlisted:
            raise pb_utils.TritonModelException(
                f"the configuration of model {config['name']!r} lacks the inputs {sorted(unlisted)}"
            )
        # Triton has no scalars: they are configured as tensors of one element, of any rank.
        dims = {wanted["name"]: _dims(wanted) for wanted in taken}
        self.scalars = {
            name
            for name, tensor in inputs.items()
            if not tensor.shape and set(dims.get(name, [1])) <= {1}
        }
        self.ranks = {wanted["name"]: len(_dims(wanted)) + self.batched for wanted in given}
        self.bf16 = {name for name, tensor in {**inputs, **outputs}.items() if tensor.type == BF16}

    def execute(self, requests):
        answers = answer_requests(
            requests,
            self._inputs,
            self._run,
            outputs=self.outputs,
            states=self.states.outputs,
            batched=self.batched,
        )
        return [self._response(*answered) for answered in answers]

    def _inputs(self, request):
        received = {
            tensor.name(): bits_of(tensor.to_dlpack())
            if tensor.name() in self.bf16
            else tensor.as_numpy()
            for tensor in request.inputs()
        }
        return self.states.inputs(request.correlation_id(), request.flags(), received)

    def _run(self, inputs, outputs):
        feeds = {
            name: _readable(name, array.reshape(()) if name in self.scalars else array)
            for name, array in inputs.items()
        }
        names = list(outputs)
        results = self._run_bf16(feeds, names) if self.bf16 else self.session.run(names, feeds)
        return {
            name: array if np.ndim(array) else np.reshape(array, [1] * self.ranks[name])
            for name, array in zip(names, results, strict=True)
        }

    def _run_bf16(self, feeds, names):
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
                # Not ascontiguousarray, which gives a scalar a dimension.
                np.asarray(array, order="C"),
                BF16_IN_ONNX,
            )
            if name in self.bf16
            else onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        results = self.session.run_with_ort_values(names, values)
        return [
            # Only the inner object has this method.
            bits_of(value._ortvalue.to_dlpack()) if name in self.bf16 else value.numpy()  # noqa: SLF001
            for name, value in zip(names, results, strict=True)
        ]

    def _response(self, request, answered, outputs):
        if isinstance(answered, Exception):
            self.states.end(request.correlation_id(), request.flags())
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answered)))
        tensors = self.states.keep(request.correlation_id(), request.flags(), answered, outputs)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, exchangeable(array))
                if name in self.bf16
                else pb_utils.Tensor(name, _sendable(array))
                for name, array in tensors.items()
            ]
        )


def _sendable(array):
    if array.dtype.kind not in "OU":
        return np.ascontiguousarray(array)
    values = [str(value).encode() for value in array.ravel()]
    return np.array(values, dtype=np.object_).reshape(array.shape)


def _readable(name, array):
    if array.dtype != np.object_:
        return array
    try:
        # The strings of a state come from onnxruntime, as str.
        values = [v if isinstance(v, str) else v.decode() for v in array.ravel()]
    except UnicodeDecodeError as error:
        raise ValueError(f"input {name!r}: the strings of ONNX are UTF-8, but {error}") from error
    return np.array(values, dtype=np.object_).reshape(array.shape)


def _described(kind, config, tensor, *, batched):
    if problem := _type_problem(tensor):
        raise pb_utils.TritonModelException(_about(kind, tensor.name, config, problem))
    shape = tensor.shape[1:] if batched else tensor.shape
    described = {
        "name": tensor.name,
        "data_type": TYPES[tensor.type],
        # Triton has no dimension of 0, but accepts empty tensors where the dimension varies.
        "dims": [size if _is_fixed(size) and size else -1 for size in shape] or [1],
    }
    if not shape and batched:
        described["reshape"] = {"shape": []}
    return described


def _check(kind, config, wanted, tensors):
    """Raise an error unless the model has the tensors as they are configured."""
    for tensor in wanted:
        if problem := _problem(config, tensor, tensors):
            raise pb_utils.TritonModelException(_about(kind, tensor["name"], config, problem))


def _problem(config, wanted, tensors):
    if wanted["name"] not in tensors:
        return f"the model has {sorted(tensors)}"
    has = tensors[wanted["name"]]
    if problem := _type_problem(has):
        return problem
    if TYPES[has.type] != wanted["data_type"]:
        return f"{wanted['data_type']} is configured, the model has {has.type}"
    configured = [-1, *_dims(wanted)] if config["max_batch_size"] > 0 else _dims(wanted)
    # A scalar of the model is [1] or [1, 1] in the configuration.
    if has.shape and not _fits(configured, has.shape):
        return f"the shape {configured} is configured, the model has {has.shape}"
    return None


def _type_problem(tensor):
    if tensor.type in TYPES:
        return None
    if tensor.type.startswith("seq(map("):
        return (
            f"its type {tensor.type} is not supported by Triton: it is the ZipMap of a converted "
            "classifier. Convert the model without it (skl2onnx: options={'zipmap': False}), or "
            "list only the other outputs in config.pbtxt"
        )
    return f"its type {tensor.type} is not supported by Triton"


def _about(kind, name, config, problem):
    return f"{kind} {name!r} of model {config['name']!r}: {problem}"


def _dims(wanted):
    return list(map(int, wanted.get("reshape", wanted).get("shape", wanted["dims"])))


def _fits(configured, shape):
    return len(configured) == len(shape) and all(
        not _is_fixed(has) or wants in (-1, has)
        for wants, has in zip(configured, shape, strict=True)
    )


def _is_fixed(size):
    return isinstance(size, int) and size >= 0


def _all_inputs(session):
    return [*session.get_inputs(), *session.get_overridable_initializers()]
