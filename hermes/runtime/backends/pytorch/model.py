"""Triton's `pytorch` backend, in Python: it serves stock TorchScript repositories unchanged.

Triton runs it inside its Python stub, for every model whose configuration says
`backend: "pytorch"` or `platform: "pytorch_libtorch"`. Names are matched as Triton's own
backend does: https://github.com/triton-inference-server/pytorch_backend
"""

import json
import re
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from hermes_batching import Request, answer


class TritonPythonModel:
    """One instance of a TorchScript model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        config = auto_complete_model_config.as_dict()
        if not config["input"] or not config["output"]:
            raise pb_utils.TritonModelException(
                f"the configuration of model {config['name']!r} must list its inputs and outputs: "
                "a TorchScript file does not know their shapes"
            )
        return auto_complete_model_config

    def initialize(self, args):
        torch = self.torch = _torch()
        config = json.loads(args["model_config"])
        parameters = {
            name: value["string_value"] for name, value in config.get("parameters", {}).items()
        }
        version = Path(args["model_repository"]) / args["model_version"]
        path = version / (config["default_model_filename"] or "model.pt")
        if not path.is_file():
            raise pb_utils.TritonModelException(f"there is no {path}")

        self.device = _device(torch, args, config)
        for setting, parameter in (
            (torch.set_num_threads, "INTRA_OP_THREAD_COUNT"),
            (torch.set_num_interop_threads, "INTER_OP_THREAD_COUNT"),
        ):
            if int(parameters.get(parameter, 0)) > 0:
                setting(int(parameters[parameter]))
        self.model = torch.jit.load(str(path), map_location=self.device).eval()
        self.optimized = parameters.get("DISABLE_OPTIMIZED_EXECUTION", "").lower() not in (
            "true",
            "1",
        )
        self.batched = config["max_batch_size"] > 0
        self.arguments, self.takes_dict = _arguments(self.model, config)
        self.outputs = _output_positions(config)
        self.types = {
            output["name"]: pb_utils.triton_string_to_numpy(output["data_type"])
            for output in config["output"]
        }

    def execute(self, requests):
        readable = [
            Request(_tensors(request), request.requested_output_names()) for request in requests
        ]
        answers = answer(readable, self._run, batched=self.batched)
        return [_response(tensors) for tensors in answers]

    def _run(self, inputs, outputs):
        torch = self.torch
        tensors = {name: self._to_torch(array) for name, array in inputs.items()}
        optimized = torch.jit.optimized_execution(self.optimized)
        with torch.inference_mode(), optimized:
            if self.takes_dict:
                result = self.model(tensors)
            else:
                result = self.model(*(tensors[name] for name in self.arguments if name in tensors))
        if isinstance(result, dict):
            found = result
        else:
            values = list(result) if isinstance(result, (tuple, list)) else [result]
            found = {
                name: values[position]
                for name, position in self.outputs.items()
                if position < len(values)
            }
        missing = [name for name in outputs if name not in found]
        if missing:
            raise ValueError(f"the model returned {len(found)} tensors, and no {missing}")
        return {name: self._to_numpy(name, found[name]) for name in outputs}

    def _to_torch(self, array):
        if array.dtype == np.object_:
            return [value.decode() for value in array.ravel()]
        if not array.flags.writeable:
            array = array.copy()
        return self.torch.from_numpy(array).to(self.device)

    def _to_numpy(self, name, value):
        if not isinstance(value, self.torch.Tensor):
            return np.array([text.encode() for text in value], dtype=np.object_)
        array = value.cpu().numpy()
        if array.dtype != self.types[name]:
            raise ValueError(
                f"output {name!r} is {array.dtype}, but {np.dtype(self.types[name])} is configured"
            )
        return array if array.ndim else array.reshape(1)


def _tensors(request):
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _torch():
    # Not at the top: it takes seconds, which completing a configuration need not.
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise pb_utils.TritonModelException(
            f"this Triton has no PyTorch ({error}); add it with: hermes install-triton --with torch"
        ) from error
    return torch


def _response(tensors):
    if isinstance(tensors, Exception):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(tensors)))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in tensors.items()]
    )


def _device(torch, args, config):
    if args["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(args["model_instance_device_id"]))
    pb_utils.Logger.log_warn(
        f"model {config['name']!r} is to run on a GPU, but this PyTorch cannot use it: the model "
        "runs on the CPU"
    )
    return torch.device("cpu")


def _arguments(model, config):
    """Return the configured inputs in the order of forward(), and whether it takes a dict.

    Triton's rules: the names are those of forward()'s arguments, or NAME__INDEX; failing both,
    the order is that of the configuration.
    """
    names = [tensor["name"] for tensor in config["input"]]
    schema = [argument for argument in model.forward.schema.arguments if argument.name != "self"]
    if len(schema) == 1 and str(schema[0].type).startswith("Dict"):
        return names, True
    arguments = [argument.name for argument in schema]
    if set(names) <= set(arguments):
        names.sort(key=arguments.index)
    elif all(_index(name) is not None for name in names):
        names.sort(key=_index)
    return names, False


def _output_positions(config):
    names = [tensor["name"] for tensor in config["output"]]
    if all(_index(name) is not None for name in names):
        return {name: _index(name) for name in names}
    return {name: position for position, name in enumerate(names)}


def _index(name):
    match = re.fullmatch(r".*__(\d+)", name)
    return int(match.group(1)) if match else None
