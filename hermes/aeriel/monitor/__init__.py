"""Record a Triton server's statistics over time."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel.monitor._monitor import ServerMonitor, monitored
    from hermes.aeriel.monitor._sample import COLUMNS
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = ["COLUMNS", "ServerMonitor", "monitored"]
