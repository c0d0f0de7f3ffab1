"""Triton's `onnxruntime` backend, in Python: it serves stock ONNX repositories unchanged.

Triton runs it inside its Python stub, for every model whose configuration says
`backend: "onnxruntime"` or `platform: "onnxruntime_onnx"`, or that has no configuration but a
`model.onnx`. What it completes and accepts follows Triton's own backend:
https://github.com/triton-inference-server/onnxruntime_backend
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from hermes_batching import Request, answer

DEFAULT_MAX_BATCH_SIZE = 4  # Triton's --backend-config=default-max-batch-size
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
}
GRAPH_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ARENA_STRATEGIES = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
CONVOLUTION_SEARCHES = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}


class TritonPythonModel:
    """One instance of an ONNX model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        session = _open(_model_file(pb_utils.get_model_dir(), config), config)
        tensors = [*session.get_inputs(), *session.get_outputs()]
        batchable = all(tensor.shape and not _is_fixed(tensor.shape[0]) for tensor in tensors)
        if not batchable and config["max_batch_size"]:
            raise pb_utils.TritonModelException(
                f"model {config['name']!r} cannot have max_batch_size {config['max_batch_size']}: "
                "the first dimension of its inputs and outputs is not free"
            )
        if batchable:
            size = config["max_batch_size"] or DEFAULT_MAX_BATCH_SIZE
            auto_complete_model_config.set_max_batch_size(size)
            if size > 1 and "sequence_batching" not in config:
                auto_complete_model_config.set_dynamic_batching()
        # add_input and add_output know no `reshape`, which scalars need.
        inner = _sequence_inputs(config) | {state["output_name"] for state in _states(config)}
        for kind, found in (("input", session.get_inputs()), ("output", session.get_outputs())):
            if not config[kind]:
                config[kind] = [_described(t, batchable) for t in found if t.name not in inner]
        return auto_complete_model_config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        version = Path(args["model_repository"]) / args["model_version"]
        device = int(args["model_instance_device_id"]) if _on_gpu(args) else None
        self.session = _open(_model_file(version, config), config, device)
        self.batched = config["max_batch_size"] > 0
        inputs = {tensor.name: tensor for tensor in _all_inputs(self.session)}
        outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        self.inputs = _checked("input", config, inputs)
        _checked("output", config, outputs)
        # Triton has no scalars: it knows them as tensors of one element.
        self.scalars = {name for name, tensor in inputs.items() if not tensor.shape}
        self.states = States(config)
        known = {*self.inputs, *_sequence_inputs(config)}
        missing = {tensor.name for tensor in self.session.get_inputs()} - known
        if missing:
            raise pb_utils.TritonModelException(
                f"the configuration of model {config['name']!r} lacks the inputs {sorted(missing)}"
            )

    def execute(self, requests):
        tensors = [
            Request(
                self.states.inputs(request, {t.name(): t.as_numpy() for t in request.inputs()}),
                [*request.requested_output_names(), *self.states.outputs],
            )
            for request in requests
        ]
        answers = answer(tensors, self._run, batched=self.batched)
        return [
            _response(self.states.keep(request, answered))
            for request, answered in zip(requests, answers, strict=True)
        ]

    def _run(self, inputs, outputs):
        feeds = {
            name: _readable(name, array.reshape(()) if name in self.scalars else array)
            for name, array in inputs.items()
        }
        names = list(outputs)
        results = dict(zip(names, self.session.run(names, feeds), strict=True))
        return {
            name: array if np.ndim(array) else np.reshape(array, 1)
            for name, array in results.items()
        }


class States:
    """What a model keeps of each sequence between its requests: its implicit state.

    Triton gives a request the initial state only: it has no way to take a later one from a
    Python backend. https://github.com/triton-inference-server/server/blob/main/docs/user_guide/implicit_state_management.md
    """

    def __init__(self, config):
        self.pairs = {state["input_name"]: state["output_name"] for state in _states(config)}
        self.outputs = list(self.pairs.values())
        self.places = _sequence_places(config)
        self.kept = OrderedDict()

    def inputs(self, request, tensors):
        """Return the inputs of a request with the state that its sequence is in."""
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self.kept.pop(request.correlation_id(), None)
        return {**tensors, **self.kept.get(request.correlation_id(), {})}

    def keep(self, request, answered):
        """Return the outputs without the state, which is kept for the sequence's next request."""
        if not self.pairs or isinstance(answered, Exception):
            return answered
        sequence = request.correlation_id()
        self.kept[sequence] = {name: answered.pop(output) for name, output in self.pairs.items()}
        self.kept.move_to_end(sequence)
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            del self.kept[sequence]
        # No word comes of a sequence that Triton gave up; but it keeps so many at once only.
        while len(self.kept) > self.places:
            self.kept.popitem(last=False)
        return answered


def _states(config):
    return config.get("sequence_batching", {}).get("state", [])


def _sequence_inputs(config):
    """Return the inputs that Triton fills itself: states, and what it tells of a sequence."""
    controls = config.get("sequence_batching", {}).get("control_input", [])
    return {control["name"] for control in controls} | {
        state["input_name"] for state in _states(config)
    }


def _sequence_places(config):
    oldest = config.get("sequence_batching", {}).get("oldest") or {}
    return max(1, int(oldest.get("max_candidate_sequences", 0)), config["max_batch_size"])


def _response(tensors):
    if isinstance(tensors, Exception):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(tensors)))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, _sendable(array)) for name, array in tensors.items()]
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
        values = [value.decode() for value in array.ravel()]
    except UnicodeDecodeError as error:
        raise ValueError(f"input {name!r}: the strings of ONNX are UTF-8, but {error}") from error
    return np.array(values, dtype=np.object_).reshape(array.shape)


def _described(tensor, batchable):
    if tensor.type not in TYPES:
        raise pb_utils.TritonModelException(f"{tensor.name!r} is a {tensor.type}")
    shape = tensor.shape[1:] if batchable else tensor.shape
    described = {
        "name": tensor.name,
        "data_type": TYPES[tensor.type],
        "dims": [size if _is_fixed(size) else -1 for size in shape] or [1],
    }
    if not shape and batchable:
        described["reshape"] = {"shape": []}
    return described


def _checked(kind, config, tensors):
    """Return the names of the configured tensors, which the model must have just so."""
    for wanted in config[kind]:
        name = wanted["name"]
        problem = None
        if name not in tensors:
            problem = f"the model has {sorted(tensors)}"
        elif TYPES.get(tensors[name].type) != wanted["data_type"]:
            problem = f"{wanted['data_type']} is configured, the model has {tensors[name].type}"
        else:
            dims = list(map(int, wanted.get("reshape", wanted).get("shape", wanted["dims"])))
            shape = list(tensors[name].shape)
            configured = [-1, *dims] if config["max_batch_size"] > 0 else dims
            # A scalar of the model is [1] to Triton.
            if shape and not _fits(configured, shape):
                problem = f"the shape {configured} is configured, the model has {shape}"
        if problem:
            raise pb_utils.TritonModelException(
                f"{kind} {name!r} of model {config['name']!r}: {problem}"
            )
    return [wanted["name"] for wanted in config[kind]]


def _fits(configured, shape):
    return len(configured) == len(shape) and all(
        not _is_fixed(has) or wants in (-1, has)
        for wants, has in zip(configured, shape, strict=True)
    )


def _is_fixed(size):
    return isinstance(size, int) and size >= 0


def _all_inputs(session):
    return [*session.get_inputs(), *session.get_overridable_initializers()]


def _model_file(version, config):
    path = Path(version) / (config["default_model_filename"] or "model.onnx")
    # A model with external data may be a directory.
    return path / "model.onnx" if path.is_dir() else path


def _on_gpu(args):
    return args["model_instance_kind"] == "GPU"


def _open(path, config, device=None):
    if not path.is_file():
        raise pb_utils.TritonModelException(f"there is no {path}")
    options = _session_options(config)
    providers = _providers(config, device)
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if device is not None and "CUDAExecutionProvider" not in session.get_providers():
        pb_utils.Logger.log_warn(
            f"model {config['name']!r} is to run on GPU {device}, but this onnxruntime cannot use "
            "it: the model runs on the CPU. For GPUs: "
            "hermes install-triton --with onnxruntime-gpu"
        )
    return session


def _session_options(config):
    options = onnxruntime.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = GRAPH_LEVELS.get(
        level, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    parameters = _parameters(config)
    if parameters.get("execution_mode") == "1":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    options.enable_cpu_mem_arena = _is_true(parameters.get("enable_mem_arena", "1"))
    options.enable_mem_pattern = _is_true(parameters.get("enable_mem_pattern", "1"))
    for library in config.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    return options


def _providers(config, device):
    if device is None or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
    parameters = _parameters(config)
    cuda = {
        name: known.get(parameters[name], parameters[name])
        for name, known in (
            ("cudnn_conv_algo_search", CONVOLUTION_SEARCHES),
            ("arena_extend_strategy", ARENA_STRATEGIES),
            ("gpu_mem_limit", {}),
            ("do_copy_in_default_stream", {}),
        )
        if name in parameters
    }
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    for accelerator in accelerators.get("gpu_execution_accelerator", []):
        if accelerator["name"] == "cuda":
            cuda.update(accelerator.get("parameters", {}))
        else:
            pb_utils.Logger.log_warn(
                f"model {config['name']!r} asks for the accelerator {accelerator['name']!r}, "
                "which this backend does not have: it runs with CUDA alone"
            )
    return [("CUDAExecutionProvider", {**cuda, "device_id": str(device)}), "CPUExecutionProvider"]


def _parameters(config):
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}


def _is_true(text):
    return text.lower() in ("1", "true", "on", "yes")
