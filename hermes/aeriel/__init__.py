"""Serve models with Triton and stream data through them: plain Python, no workflow engine."""

from pathlib import Path as _Path

from hermes.aeriel._ml4gw import check_installation as _check_installation

_check_installation(_Path(__file__).parent)
