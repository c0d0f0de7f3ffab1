"""Stream data through a model on any Triton server."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel._options import TransportName
    from hermes.aeriel.client._client import InferenceClient
    from hermes.aeriel.client._failures import is_transient
    from hermes.aeriel.client._sequences import Sequence
    from hermes.aeriel.client._specification import ModelSpecification, TensorSpecification
    from hermes.aeriel.client._statistics import ClientStatistics, ServerTimes
    from hermes.aeriel.client._transports import RowLayout
    from hermes.aeriel.client._windows import Windows, pad
    from hermes.aeriel.endpoint import Endpoint
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = [
    "ClientStatistics",
    "Endpoint",
    "InferenceClient",
    "ModelSpecification",
    "RowLayout",
    "Sequence",
    "ServerTimes",
    "TensorSpecification",
    "TransportName",
    "Windows",
    "is_transient",
    "pad",
]
