"""A Triton server in a process of its own, which runs while another process needs it."""

from hermes._cleanup import sweep
from hermes._directory import Status, state_home
from hermes.aeriel.supervise._client import ensure_server, stop_server
from hermes.aeriel.supervise._shared import SharedServer, shared_server
from hermes.aeriel.supervise._spec import ServerSpec, repository_stamp
from hermes.aeriel.supervise._state import Lease, ServerState, Wishes

__all__ = [
    "Lease",
    "ServerSpec",
    "ServerState",
    "SharedServer",
    "Status",
    "Wishes",
    "ensure_server",
    "repository_stamp",
    "shared_server",
    "state_home",
    "stop_server",
    "sweep",
]
