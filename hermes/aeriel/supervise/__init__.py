"""A Triton server in a process of its own, which runs while another process needs it."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes._cleanup import sweep
    from hermes._directory import Status, state_home
    from hermes.aeriel.supervise._client import ensure_server, stop_server
    from hermes.aeriel.supervise._shared import SharedServer, shared_server
    from hermes.aeriel.supervise._spec import ServerSpec, repository_stamp
    from hermes.aeriel.supervise._state import Lease, ServerState, Wishes
else:
    __getattr__, __dir__ = import_on_use(__name__)

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
