"""Opens a session of onnxruntime with the settings of a model's configuration."""

import os
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils
from hermes_threads import fair_threads

DEFAULT_MAX_BATCH_SIZE = 4  # Triton's own
GRAPH_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ARENA_STRATEGIES = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
CONVOLUTION_SEARCHES = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
CUDA = "CUDAExecutionProvider"


def open_session(version, config, device=None):
    """Return a session for the model in a version's directory, on the CPU or on one GPU."""
    path = Path(version) / (config["default_model_filename"] or "model.onnx")
    if path.is_dir():  # a model with external data
        path /= "model.onnx"
    if not path.is_file():
        raise pb_utils.TritonModelException(f"there is no {path}")
    options = _session_options(config)
    session = onnxruntime.InferenceSession(str(path), options, providers=_providers(config, device))
    # onnxruntime skips a provider that it cannot load.
    if device is not None and CUDA not in session.get_providers():
        raise pb_utils.TritonModelException(
            f"model {config['name']!r} is to run on GPU {device}, but onnxruntime "
            f"{onnxruntime.__version__} cannot use CUDA here. For a GPU: hermes install-triton "
            "--with 'onnxruntime-gpu[cuda,cudnn]', or 'onnxruntime-gpu[cuda,cudnn]<1.27' for a "
            "driver of CUDA 12. For the CPU: serve it with cpu=True (--cpu), or have config.pbtxt "
            "say instance_group [{ kind: KIND_CPU }]"
        )
    return session


def default_max_batch_size():
    """Return max_batch_size for a model that can be batched, if its configuration has none.

    Triton does not pass --backend-config=onnxruntime,default-max-batch-size=N to a Python-based
    backend (only the settings of the backend `python`), so it is read from its command line.
    """
    command = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    settings = {}
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        option, equals, text = argument.partition("=")
        if option == "--backend-config":
            setting, _, value = (text if equals else following).rpartition("=")
            backend, _, name = setting.rpartition(",")
            if name == "default-max-batch-size":
                settings[backend] = value
    # A setting without a backend is the default for all backends.
    value = settings.get("onnxruntime", settings.get("", DEFAULT_MAX_BATCH_SIZE))
    return max(0, int(value))


def _session_options(config):
    options = onnxruntime.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = GRAPH_LEVELS.get(
        level, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    parameters = _parameters(config)
    if parameters.get("execution_mode") == "1":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0)) or fair_threads(
        config
    )
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    # Threads that spin between requests would take CPU time from the server and other instances.
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    options.enable_cpu_mem_arena = _is_true(parameters.get("enable_mem_arena", "1"))
    options.enable_mem_pattern = _is_true(parameters.get("enable_mem_pattern", "1"))
    for library in config.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    return options


def _providers(config, device):
    if device is None or CUDA not in onnxruntime.get_available_providers():
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
                f"model {config['name']!r} requests the accelerator {accelerator['name']!r}, "
                "which this backend does not support: the model runs with CUDA only"
            )
    return [(CUDA, {**cuda, "device_id": str(device)}), "CPUExecutionProvider"]


def _parameters(config):
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}


def _is_true(text):
    return text.lower() in ("1", "true", "on", "yes")
