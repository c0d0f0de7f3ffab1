"""Models whose configuration asks for a GPU, on a machine without one.

``instance_group [{ kind: KIND_GPU }]`` is what exporters write. Where Triton sees no GPU it refuses
such a model: "instance group double_0 of model double has kind KIND_GPU but no GPUs are available".
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hermes.aeriel.serve._gpus import cuda_devices
from hermes.aeriel.serve._nvml import list_gpus, why_no_gpu
from hermes.errors import ModelLoadError

# Of a configuration's text: strings and comments, which stay as they are; the kind; and the list of
# GPUs, which Triton refuses beside KIND_CPU. Text is edited, and not parsed and written again,
# because a server may know fields that tritonclient does not.
_PARTS = re.compile(
    r"""(?P<other>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*)"""
    r"""|(?P<kind>\bKIND_GPU\b)"""
    r"""|(?P<gpus>\bgpus\s*:\s*(?:\[[^\]]*\]|[0-9]+)\s*[,;]?)"""
)
_FALSE = {"false", "0", "no", "off"}


def why_no_gpu_is_seen(
    gpus: Sequence[int | str] | None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return why a server sees no GPU, or None where it sees some, or nobody can tell.

    Parameters
    ----------
    gpus
        What the server is shown (`GPULease.gpus`); None: what the environment shows.
    environ
        The server's environment.
    """
    if gpus is not None and not gpus:
        return "it is to see none (gpus=[])"
    if Path("/dev/nvmap").exists():
        return None  # an integrated GPU (Tegra), which NVML does not list
    if (reason := why_no_gpu()) is not None:
        return reason
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is None and shown is not None and not cuda_devices(shown, list_gpus()):
        return f"CUDA_VISIBLE_DEVICES={shown} shows none"
    return None


def check_gpu_models(
    model_repository: str,
    server_args: Sequence[str],
    gpus: Sequence[int | str] | None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Refuse a repository with a model that asks for a GPU where the server sees none.

    Parameters
    ----------
    model_repository
        A directory; of a URL nothing is known.
    server_args
        Flags of tritonserver, which may name the models to load.
    gpus, environ
        As for `why_no_gpu_is_seen`.

    Raises
    ------
    ModelLoadError
        A model that the server has to load asks for a GPU; the error says in which line.
    """
    if (
        "://" in model_repository
        or (_values(server_args, "exit-on-error") or ["true"])[-1] in _FALSE
    ):
        return
    is_explicit = _values(server_args, "model-control-mode")[-1:] == ["explicit"]
    loaded = _values(server_args, "load-model")
    for config in _configs(Path(model_repository)):
        model = config.parent.name
        if is_explicit and not {model, "*"} & set(loaded):
            continue
        lines = gpu_lines(_text(config))
        if lines and (reason := why_no_gpu_is_seen(gpus, environ)) is not None:
            problem = (
                f"{config}, line {lines[0]}, asks for a GPU (KIND_GPU), and the server sees none: "
                f"{reason}. Serve it on the CPU as it is with cpu=True (--cpu), or write KIND_CPU "
                "there and leave out a list of gpus"
            )
            raise ModelLoadError(model=model, where="a server without GPUs", reason=problem)


def make_cpu_repository(repository: Path, directory: Path) -> None:
    """Make a repository of the same models, none of which asks for a GPU.

    Parameters
    ----------
    repository
        The model repository; an absolute path.
    directory
        Is made anew, with configurations of its own, and links to everything else: a container
        that serves it has to mount the model repository too, where it is.
    """
    changed = {
        config: text
        for config in _configs(repository, every=True)
        if (text := on_cpu(original := _text(config))) != original
    }
    shutil.rmtree(directory, ignore_errors=True)  # of an earlier start
    directory.mkdir(mode=0o700)
    _link(repository, directory, changed)


def gpu_lines(config: str) -> list[int]:
    """Return the lines of a configuration (from 1) that ask for a GPU."""
    return [
        config.count("\n", 0, match.start()) + 1
        for match in _PARTS.finditer(config)
        if match["kind"] is not None
    ]


def on_cpu(config: str) -> str:
    """Return a configuration whose instances are on the CPU, where they were on GPUs."""
    if not gpu_lines(config):
        return config

    def replaced(match: re.Match[str]) -> str:
        if match["kind"] is not None:
            return "KIND_CPU"
        return match[0] if match["gpus"] is None else ""

    return _PARTS.sub(replaced, config)


def _configs(repository: Path, *, every: bool = False) -> Iterator[Path]:
    """Yield the models' configurations, or every one that ``--model-config-name`` may choose."""
    yield from sorted(repository.glob("*/config.pbtxt"))
    if every:
        yield from sorted(repository.glob("*/configs/*.pbtxt"))


def _link(source: Path, target: Path, changed: Mapping[Path, str]) -> None:
    """Fill a directory with links to what is in another, and with the files that are changed."""
    for path in source.iterdir():
        copy = target / path.name
        if path in changed:
            copy.write_bytes(changed[path].encode(errors="surrogateescape"))
        elif any(path in file.parents for file in changed):
            copy.mkdir()
            _link(path, copy, changed)
        else:
            copy.symlink_to(path)


def _text(config: Path) -> str:
    """Return a configuration; that it cannot be read is for the server to say."""
    try:
        return config.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ""


def _values(arguments: Sequence[str], name: str) -> list[str]:
    """Return the values of a flag, in either spelling."""
    return [
        argument.partition("=")[2] if "=" in argument else following
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True)
        if argument.partition("=")[0] == f"--{name}"
    ]
