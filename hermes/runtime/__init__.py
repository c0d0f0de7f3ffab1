"""A Triton server on this machine: finding one, and installing one from PyPI."""

from hermes.runtime._find import LocalTriton, find_triton
from hermes.runtime._install import install_triton

__all__ = ["LocalTriton", "find_triton", "install_triton"]
