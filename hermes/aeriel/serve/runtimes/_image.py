"""Finds a Singularity/Apptainer image, and checks that it is one."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from hermes.errors import ImageError

# Images of the International Gravitational-Wave Network, where CVMFS is mounted.
DEFAULT_IMAGE_PATH = "/cvmfs/singularity.opensciencegrid.org/ml4gw"

_NO_SANDBOX = "is a directory but not a sandbox: it has no .singularity.d"
_URI = re.compile(r"[a-z][a-z0-9+.-]*://")
# A SIF's global header: launch line, magic, versions, id, eight numbers (sylabs/sif, sif.go).
_SIF_HEADER = struct.Struct("<32s10s3s3s16s8q")


def find_image(image: str | Path, environ: Mapping[str, str], cwd: Path) -> str:
    """Return the absolute path of an image, or its URI.

    Parameters
    ----------
    image
        A path or a URI (``docker://…``). A relative path is searched in `cwd`, then in the
        directories of ``HERMES_IMAGE_PATH``, which are separated by colons.
    environ
        The environment with that variable.
    cwd
        The working directory.

    Raises
    ------
    ImageError
        There is no such image.
    """
    if isinstance(image, str) and _URI.match(image):
        return image
    named = environ.get("HERMES_IMAGE_PATH", DEFAULT_IMAGE_PATH).split(":")
    # An absolute path is the same one below each directory.
    candidates = dict.fromkeys(Path(each) / image for each in (str(cwd), *named) if each)
    for candidate in candidates:
        if os.path.lexists(candidate):
            return str(candidate)
    places = ", ".join(map(str, candidates))
    raise ImageError(image=str(image), problem=f"does not exist; looked for {places}")


def check_image(image: str) -> None:
    """Raise ImageError for a file or directory that is not an image, without a container runtime.

    Parameters
    ----------
    image
        The result of `find_image`. A URI is not checked.
    """
    if _URI.match(image):
        return
    path = Path(image)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            problem = None if (path / ".singularity.d").is_dir() else _NO_SANDBOX
        elif stat.S_ISREG(mode):
            size, wanted = path.stat().st_size, _sif_size(path)
            problem = f"is truncated: it has {size} of {wanted} bytes" if size < wanted else None
        else:
            problem = "is neither a file nor a directory"
    except OSError as error:
        raise ImageError(image=image, problem=f"cannot be read: {error.strerror}") from error
    if problem is not None:
        raise ImageError(image=image, problem=problem)


def _sif_size(path: Path) -> int:
    """Return the length of a SIF according to its header; 0 for another kind of file."""
    with path.open("rb") as file:
        header = file.read(_SIF_HEADER.size)
    if len(header) < _SIF_HEADER.size:
        return 0
    _, magic, *_, data_offset, data_size = _SIF_HEADER.unpack(header)
    return data_offset + data_size if magic.startswith(b"SIF_MAGIC") else 0
