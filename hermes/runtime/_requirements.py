"""The requirements that pip installs beside Triton."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# With numpy 2 every output of the wheel's Python backend is empty, without an error. numpy 1 has
# no wheels for Python 3.13.
NUMPY = "numpy<2"
# Earlier installations list them with the versions of the environment, which are too old for torch.
INSTALLERS = {"pip", "setuptools", "wheel"}


def merge(earlier: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """Return the requirements of both; a later one replaces an earlier one of the same package."""
    return tuple({package_name(wish): wish for wish in (*earlier, *later)}.values())


def with_defaults(wishes: Sequence[str]) -> list[str]:
    """Return requirements with those that every installation has."""
    # onnxruntime-gpu and similar packages contain the same module: they replace onnxruntime.
    has_runtime = any(package_name(wish).startswith("onnxruntime") for wish in wishes)
    return [NUMPY, *([] if has_runtime else ["onnxruntime"]), *wishes]


def pins(versions: Mapping[str, str], wishes: Sequence[str]) -> list[str]:
    """Return constraints that keep these versions, except for packages that are requested."""
    asked = {package_name(wish) for wish in wishes}
    if "pip" in versions:
        asked |= INSTALLERS
    return [
        f"{name}=={version}"
        for name, version in versions.items()
        if package_name(name) not in asked
    ]


def package_name(requirement: str) -> str:
    """Return the normalized name of the package that a requirement names."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*(?=\s*($|[\[<>=!~;@]))", requirement)
    return re.sub(r"[-_.]+", "-", match.group()).lower() if match else requirement
