"""Models whose configuration requires a GPU, on a machine without one.

Many exporters write ``instance_group [{ kind: KIND_GPU }]``. Where Triton sees no GPU it refuses
such a model: "instance group double_0 of model double has kind KIND_GPU but no GPUs are available".
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hermes.aeriel._flags import flag_values, is_off
from hermes.aeriel.serve._gpu_names import cuda_devices
from hermes.aeriel.serve._nvml import list_gpus, why_no_gpu
from hermes.errors import ModelLoadError

# Parts of a configuration's text: strings and comments, which are not changed; the kind; and the
# list of GPUs, which Triton refuses with KIND_CPU. The text is edited, and not parsed and written
# again, because a server may have fields that tritonclient does not know.
_PARTS = re.compile(
    r"""(?P<other>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*)"""
    r"""|(?P<kind>\bKIND_GPU\b)"""
    r"""|(?P<gpus>\bgpus\s*:\s*(?:\[[^\]]*\]|[0-9]+)\s*[,;]?)"""
)


def why_no_gpu_is_seen(
    gpus: Sequence[int | str] | None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return why a server sees no GPU; None where it sees one, or where that is not known.

    Parameters
    ----------
    gpus
        The GPUs that the server sees (`GPULease.gpus`); None for those of the environment.
    environ
        The server's environment.
    """
    if gpus is not None and not gpus:
        return "gpus=[] hides all"
    if Path("/dev/nvmap").exists():
        return None  # an integrated GPU (Tegra), which NVML does not list
    if (reason := why_no_gpu()) is not None:
        return reason
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is None and shown is not None and not cuda_devices(shown, list_gpus()):
        return f"CUDA_VISIBLE_DEVICES={shown} names none"
    return None


def check_gpu_models(
    model_repository: str,
    server_args: Sequence[str],
    gpus: Sequence[int | str] | None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Refuse a repository with a model that requires a GPU where the server sees none.

    Parameters
    ----------
    model_repository
        A directory; a URL is not checked.
    server_args
        Flags of tritonserver, which may name the models to load.
    gpus, environ
        As for `why_no_gpu_is_seen`.

    Raises
    ------
    ModelLoadError
        A model that the server has to load requires a GPU; the error names the line.
    """
    if "://" in model_repository or is_off(server_args, "exit-on-error"):
        return
    is_explicit = flag_values(server_args, "model-control-mode")[-1:] == ["explicit"]
    loaded = flag_values(server_args, "load-model")
    for config in _configs(Path(model_repository)):
        model = config.parent.name
        if is_explicit and not {model, "*"} & set(loaded):
            continue
        lines = gpu_lines(_text(config))
        if lines and (reason := why_no_gpu_is_seen(gpus, environ)) is not None:
            problem = (
                f"{config}, line {lines[0]}, requires a GPU (KIND_GPU), and the server sees none: "
                f"{reason}. Serve the model unchanged on the CPU with cpu=True (--cpu), or write "
                "KIND_CPU there and remove the list of gpus"
            )
            raise ModelLoadError(model=model, where="a server without GPUs", reason=problem)


def make_cpu_repository(repository: Path, directory: Path) -> None:
    """Make a repository of the same models, with none that requires a GPU.

    Parameters
    ----------
    repository
        The model repository; an absolute path.
    directory
        The new repository, with its own configurations and links to all other files. A container
        that serves it has to mount the model repository too, at the same path.
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
    """Return the lines of a configuration (from 1) that require a GPU."""
    return [
        config.count("\n", 0, match.start()) + 1
        for match in _PARTS.finditer(config)
        if match["kind"] is not None
    ]


def on_cpu(config: str) -> str:
    """Return a configuration with its instances on the CPU instead of GPUs."""
    if not gpu_lines(config):
        return config

    def replaced(match: re.Match[str]) -> str:
        if match["kind"] is not None:
            return "KIND_CPU"
        return match[0] if match["gpus"] is None else ""

    return _PARTS.sub(replaced, config)


def _configs(repository: Path, *, every: bool = False) -> Iterator[Path]:
    """Yield the models' configurations; with `every`, those for ``--model-config-name`` too."""
    yield from sorted(repository.glob("*/config.pbtxt"))
    if every:
        yield from sorted(repository.glob("*/configs/*.pbtxt"))


def _link(source: Path, target: Path, changed: Mapping[Path, str]) -> None:
    """Fill a directory with links to the files of another, and with the changed files."""
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
    """Return a configuration; an empty text where it cannot be read, which Triton reports."""
    try:
        return config.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ""
