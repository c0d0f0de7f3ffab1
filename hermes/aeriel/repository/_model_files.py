"""Whether the files of a model are what Triton loads: found on disk, before a server starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from hermes.aeriel._flags import flag_values
from hermes.aeriel.repository._onnx import OnnxGraph, OnnxTensor, read_graph

# The file or directory in a version's directory, by backend; Triton's model_config.h.
FILES = {
    "onnxruntime": "model.onnx",
    "pytorch": "model.pt",
    "python": "model.py",
    "tensorrt": "model.plan",
    "openvino": "model.xml",
}
PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "ensemble": "",
}
# What Triton recognises a model by where no configuration says it.
RECOGNISED = (*FILES.values(), "model.savedmodel", "model.graphdef", "model.dali")
SHOWN = 10
# Triton's own, for a model that can be batched and does not say.
DEFAULT_MAX_BATCH_SIZE = 4


def is_model(directory: Path) -> bool:
    """Tell whether a directory is laid out as a model: a configuration, or versions."""
    return directory.is_dir() and (
        (directory / "config.pbtxt").is_file() or any(_versions(directory))
    )


def problem_of(directory: Path, config: Any, version: str = "") -> str:
    """Return what is wrong with the files of a model, or an empty string.

    Parameters
    ----------
    directory
        The model's directory.
    config
        Its configuration, or None where it has none.
    version
        The version that is asked for; none: the newest.
    """
    versions = sorted(_versions(directory), key=lambda path: int(path.name))
    if not versions:
        names = sorted(path.name for path in directory.iterdir() if path.is_dir())
        has = f"it has {names[:SHOWN]}" if names else "there is no directory in it"
        return f"{directory} has no version directory, whose name is a number, such as 1; {has}"
    chosen = directory / version if version else versions[-1]
    if config is None:
        return _problem_without_configuration(directory, chosen)
    return next(_problems(directory, config, chosen), "")


def configuration_of_onnx(
    directory: Path, config: Any, version: str = "", server_args: Sequence[str] = ()
) -> Any:
    """Return the configuration that a server makes of an ONNX model's inputs and outputs.

    As Triton's onnxruntime backend does, it takes a first dimension that is free everywhere for the
    batch. How many rows a request may have then is a setting of the server.

    Parameters
    ----------
    directory, version
        As for `problem_of`.
    config
        The configuration in the directory, without inputs and outputs; or None.
    server_args
        The server's further arguments.

    Returns
    -------
    ModelConfig or None
        None where only a server can tell, or it is no ONNX model.
    """
    versions = sorted(_versions(directory), key=lambda path: int(path.name))
    made: Any = model_config_pb2.ModelConfig()
    if config is not None:
        made.CopyFrom(config)
    backend = made.backend or PLATFORMS.get(made.platform, "onnxruntime")
    if backend != "onnxruntime" or not versions or made.HasField("sequence_batching"):
        return None
    chosen = directory / version if version else versions[-1]
    model = chosen / (made.default_model_filename or FILES["onnxruntime"])
    try:
        graph = read_graph(model / model.name if model.is_dir() else model)
    except (OSError, ValueError):
        return None  # the check of the model says why
    outputs = {name: tensor for name, tensor in graph.outputs.items() if tensor.datatype}
    tensors = [*graph.inputs.values(), *outputs.values()]
    if not graph.inputs or not all(each.datatype and each.shape for each in tensors):
        return None
    is_batched = all(each.shape and each.shape[0] == -1 for each in tensors)
    if not made.max_batch_size:
        made.max_batch_size = _default_max_batch_size(server_args) if is_batched else 0
    for named, to in ((graph.inputs, made.input), (outputs, made.output)):
        for name, tensor in named.items():
            dims = (tensor.shape or ())[1 if made.max_batch_size else 0 :]
            # A row that is one number has the shape [1].
            to.add(name=name, data_type=f"TYPE_{tensor.datatype}", dims=dims or (1,))
    return made


def _default_max_batch_size(server_args: Sequence[str]) -> int:
    """Return what ``--backend-config=onnxruntime,default-max-batch-size=N`` says."""
    settings: dict[str, str] = {}
    for text in flag_values(server_args, "backend-config"):
        setting, _, value = text.rpartition("=")
        backend, _, name = setting.rpartition(",")
        if name == "default-max-batch-size":
            settings[backend] = value
    # A setting without a backend is that of all backends.
    value = settings.get("onnxruntime", settings.get("", ""))
    return int(value) if value.isdecimal() else DEFAULT_MAX_BATCH_SIZE


def _problems(directory: Path, config: Any, version: Path) -> Iterator[str]:
    file = directory / "config.pbtxt"
    if config.name and config.name != directory.name:
        yield (
            f"{file} says name: {config.name!r}, but the directory of the model is called "
            f"{directory.name!r}; make them equal, or leave the name out"
        )
    if config.platform and not config.backend and config.platform not in PLATFORMS:
        known = [name for name, backend in PLATFORMS.items() if config.platform in name] or [
            *PLATFORMS
        ]
        yield (
            f"{file} says platform: {config.platform!r}, which Triton does not know; "
            f"it may be {' or '.join(map(repr, known))}"
        )
    backend = config.backend or PLATFORMS.get(config.platform, "")
    if config.version_policy.WhichOneof("policy_choice") == "specific":
        return  # the newest version may be none of them
    name = config.default_model_filename or FILES.get(backend, "")
    if not name:
        return
    model = version / name
    if not model.exists():
        yield f"{_lacks(version, name)}, or name it in default_model_filename of {file}"
    elif backend == "onnxruntime":
        yield from _onnx_problems(file, config, model / name if model.is_dir() else model)


def _problem_without_configuration(directory: Path, version: Path) -> str:
    if any((version / name).exists() for name in RECOGNISED):
        return ""
    return f"{directory} has no config.pbtxt, and {_lacks(version, 'model.onnx')}"


def _lacks(version: Path, name: str) -> str:
    names = sorted(path.name for path in version.iterdir()) if version.is_dir() else []
    has = f"but {names[:SHOWN]}" if names else "and is empty"
    return f"{version} has no {name}, {has}; rename the model's file to {name}"


def _onnx_problems(file: Path, config: Any, model: Path) -> Iterator[str]:
    try:
        graph = read_graph(model)
    except (OSError, ValueError) as error:
        yield f"{model} cannot be read as ONNX: {error}"
        return
    yield from _tensor_problems("input", file, config, config.input, graph.inputs)
    yield from _tensor_problems("output", file, config, config.output, graph.outputs)
    yield from _missing_inputs(file, config, graph)


def _tensor_problems(
    kind: str, file: Path, config: Any, configured: Any, tensors: Mapping[str, OnnxTensor]
) -> Iterator[str]:
    for each in configured:
        tensor = tensors.get(each.name)
        if tensor is None:
            has = f"the ONNX file has {kind}s {sorted(tensors)[:SHOWN]}"
            yield f"{file} has an {kind} {each.name!r}, but {has}"
            continue
        wanted = tensor.datatype and f"TYPE_{tensor.datatype}"
        given = model_config_pb2.DataType.Name(each.data_type)
        if wanted and each.data_type and given != wanted:
            yield (
                f"{file} says that {kind} {each.name!r} is {given}, but in the ONNX file it is "
                f"{wanted}"
            )
        if tensor.shape and not each.HasField("reshape"):
            yield from _shape_problems(kind, file, config.max_batch_size, each, tensor.shape)


def _shape_problems(
    kind: str, file: Path, max_batch_size: int, tensor: Any, shape: tuple[int, ...]
) -> Iterator[str]:
    dims = tuple(tensor.dims)
    if max_batch_size and shape[0] not in (-1, max_batch_size):
        yield (
            f"{file} says max_batch_size: {max_batch_size}, but the first dimension of {kind} "
            f"{tensor.name!r} in the ONNX file is {shape[0]}: export it with a free one, or leave "
            "max_batch_size out"
        )
    rest = shape[1:] if max_batch_size else shape
    fits = len(rest) == len(dims) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(rest, dims, strict=True)
    )
    # Triton has no tensor of rank 0: a scalar is [1].
    if dims and not fits and (rest or dims != (1,)):
        batch = " (without its first dimension, the batch)" if max_batch_size else ""
        yield (
            f"{file} says dims: {list(dims)} for {kind} {tensor.name!r}, but in the ONNX file it "
            f"is {list(rest)}{batch}"
        )


def _missing_inputs(file: Path, config: Any, graph: OnnxGraph) -> Iterator[str]:
    missing = sorted(graph.inputs.keys() - {each.name for each in config.input})
    # The others are controls and states.
    if config.input and missing and not config.HasField("sequence_batching"):
        yield f"{file} leaves out {missing[:SHOWN]}, which are inputs of the ONNX file too"


def _versions(directory: Path) -> Iterator[Path]:
    return (path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir())
