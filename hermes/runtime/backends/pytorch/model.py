"""Triton's `pytorch` backend, in Python: it serves stock TorchScript repositories unchanged.

Triton runs it inside its Python stub, for every model whose configuration says
`backend: "pytorch"` or `platform: "pytorch_libtorch"`. Names are matched as in Triton's own
backend: https://github.com/triton-inference-server/pytorch_backend
"""

import json
import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from hermes_batching import answer_requests
from hermes_sequences import SequenceStates, declared_states, sequence_inputs
from hermes_threads import fair_threads


class TritonPythonModel:
    """One instance of a TorchScript model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        config = auto_complete_model_config.as_dict()
        if not config["input"] or not config["output"]:
            raise pb_utils.TritonModelException(
                f"the configuration of model {config['name']!r} must list its inputs and outputs: "
                "a TorchScript file does not contain their shapes"
            )
        return auto_complete_model_config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        torch = self.torch = _torch()
        parameters = {
            name: value["string_value"] for name, value in config.get("parameters", {}).items()
        }
        version = Path(args["model_repository"]) / args["model_version"]
        path = version / (config["default_model_filename"] or "model.pt")
        if not path.is_file():
            raise pb_utils.TritonModelException(f"there is no {path}")

        self.device = _device(torch, args, config)
        _set_threads(torch, parameters, config)
        self.model = torch.jit.load(str(path), map_location=self.device).eval()
        self.optimized = parameters.get("DISABLE_OPTIMIZED_EXECUTION", "").lower() not in (
            "true",
            "1",
        )
        self.batched = config["max_batch_size"] > 0
        self.states = SequenceStates(config)
        self.outputs = [output["name"] for output in config["output"]]
        self.arguments, self.takes_dict = _arguments(self.model)
        self.inputs = {} if self.takes_dict else _input_positions(self.arguments, config)
        self.results = _output_positions(config)
        self.types = _types(config)

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
        received = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return self.states.inputs(request.correlation_id(), request.flags(), received)

    def _run(self, inputs, outputs):
        torch = self.torch
        tensors = {name: self._to_torch(array) for name, array in inputs.items()}
        optimized = torch.jit.optimized_execution(self.optimized)
        with torch.inference_mode(), optimized:
            if self.takes_dict:
                result = self.model(tensors)
            else:
                result = self.model(*self._positional(tensors))
        found = self._named(result)
        missing = [name for name in outputs if name not in found]
        if missing:
            raise ValueError(f"the model returned {len(found)} tensors, and no {missing}")
        return {name: self._to_numpy(name, found[name]) for name in outputs}

    def _positional(self, tensors):
        given = {self.inputs[name]: tensor for name, tensor in tensors.items()}
        # Arguments at the end may be left out, for their defaults; others would shift the rest.
        _refuse_gaps(given, self.arguments, "the request")
        return [given[position] for position in range(len(given))]

    def _named(self, result):
        if isinstance(result, dict):
            return result
        # A list of strings is one output.
        several = isinstance(result, (tuple, list)) and not _is_text(result)
        values = result if several else [result]
        return {
            name: values[position]
            for name, position in self.results.items()
            if position is not None and position < len(values)
        }

    def _to_torch(self, array):
        if array.dtype == np.object_:
            return [value.decode() for value in array.ravel()]
        if not array.flags.writeable:
            array = array.copy()
        return self.torch.from_numpy(array).to(self.device)

    def _to_numpy(self, name, value):
        if _is_text(value):
            return np.array([text.encode() for text in value], dtype=np.object_)
        if not isinstance(value, self.torch.Tensor):
            raise TypeError(
                f"output {name!r} is a {type(value).__name__}, not a Tensor or List[str]"
            )
        # numpy has no BF16, nor the types of quantised tensors.
        kind = str(value.dtype).removeprefix("torch.")
        if kind != self.types[name].name:
            raise ValueError(f"output {name!r} is {kind}, but {self.types[name]} is configured")
        array = value.cpu().numpy()
        return array if array.ndim else array.reshape(1)

    def _response(self, request, answered, outputs):
        if isinstance(answered, Exception):
            self.states.end(request.correlation_id(), request.flags())
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answered)))
        tensors = self.states.keep(request.correlation_id(), request.flags(), answered, outputs)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in tensors.items()]
        )


def _torch():
    # Threads that spin between requests would take CPU time from the server and other instances.
    # OpenMP reads this once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Not at the top: it takes seconds, and completing a configuration does not need it.
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise pb_utils.TritonModelException(
            f"this Triton has no PyTorch ({error}); add it with: hermes install-triton --with torch"
        ) from error
    return torch


def _device(torch, args, config):
    if args["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    device = int(args["model_instance_device_id"])
    if not torch.cuda.is_available():
        raise pb_utils.TritonModelException(
            f"model {config['name']!r} is to run on GPU {device}, but PyTorch {torch.__version__} "
            "cannot use CUDA here. For a GPU: hermes install-triton --with a torch that is built "
            "for the CUDA of this machine's driver. For the CPU: serve it with cpu=True (--cpu), "
            "or have config.pbtxt say instance_group [{ kind: KIND_CPU }]"
        )
    return torch.device("cuda", device)


def _set_threads(torch, parameters, config):
    torch.set_num_threads(int(parameters.get("INTRA_OP_THREAD_COUNT", 0)) or fair_threads(config))
    if between := int(parameters.get("INTER_OP_THREAD_COUNT", 0)):
        torch.set_num_interop_threads(between)


def _arguments(model):
    """Return the names of forward()'s arguments, and whether the first takes a dictionary."""
    # The model itself comes first, under any name.
    arguments = [a for a in model.forward.schema.arguments if a.type.kind() != "ClassType"]
    takes_dict = bool(arguments) and arguments[0].type.kind() == "DictType"
    return [argument.name for argument in arguments], takes_dict


def _input_positions(arguments, config):
    """Return the position of each input among forward()'s arguments.

    Triton's rules: the names are those of forward()'s arguments, or NAME__INDEX; otherwise the
    order is that of the configuration. Sequence controls and states, which the server provides,
    have to be named in one of the first two ways.
    """
    names = [tensor["name"] for tensor in config["input"]]
    if set(names) <= set(arguments):
        positions = {name: arguments.index(name) for name in names}
    elif all(_index(name) is not None for name in names):
        positions = {name: _index(name) for name in names}
    else:
        positions = {name: position for position, name in enumerate(names)}
    for name in sequence_inputs(config):
        positions[name] = arguments.index(name) if name in arguments else _index(name)
        if positions[name] is None:
            raise pb_utils.TritonModelException(
                f"the sequence input {name!r} of model {config['name']!r} is neither an argument "
                f"of forward({', '.join(arguments)}) nor named NAME__INDEX"
            )
    try:
        _refuse_gaps(positions.values(), arguments, "the configuration")
    except ValueError as error:
        raise pb_utils.TritonModelException(f"model {config['name']!r}: {error}") from error
    return positions


def _refuse_gaps(positions, arguments, whose):
    given = sorted(positions)
    if given == list(range(len(given))) and len(given) <= len(arguments):
        return
    missing = [name for i, name in enumerate(arguments) if i not in given and i < max(given)]
    raise ValueError(
        f"{whose} gives the arguments {given} of forward({', '.join(arguments)})"
        + (f" without {missing}: only the last ones may be left out" if missing else "")
    )


def _output_positions(config):
    """Return the position of each output and state among the results of forward()."""
    names = [tensor["name"] for tensor in config["output"]]
    if all(_index(name) is not None for name in names):
        positions = {name: _index(name) for name in names}
    else:
        positions = {name: position for position, name in enumerate(names)}
    states = (state["output_name"] for state in declared_states(config))
    # Without an index, a state is found only where the model returns a dictionary.
    return {**{name: _index(name) for name in states}, **positions}


def _types(config):
    """Return the dtype of each output and state, after checking those of the inputs."""
    states = declared_states(config)
    tensors = [
        *config["input"],
        *config["output"],
        *({**state, "name": state["output_name"]} for state in states),
    ]
    for tensor in tensors:
        if tensor["data_type"] == "TYPE_BF16":
            raise pb_utils.TritonModelException(
                f"{tensor['name']!r} of model {config['name']!r} is TYPE_BF16, which Triton's "
                "pytorch backend does not support: let forward() take and return FP32 or FP16, and "
                "convert inside"
            )
    return {
        tensor["name"]: np.dtype(pb_utils.triton_string_to_numpy(tensor["data_type"]))
        for tensor in tensors
    }


def _is_text(value):
    return isinstance(value, list) and all(isinstance(element, str) for element in value)


def _index(name):
    _, separator, index = name.partition("__")
    return int(index) if separator and index.isdigit() else None
