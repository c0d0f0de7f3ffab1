"""Offline inference with NVIDIA Triton: servers with a lifetime, clients with a bound."""

__version__ = "0.1.0"
