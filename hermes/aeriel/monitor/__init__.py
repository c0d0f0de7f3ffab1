"""Record a Triton server's statistics over time."""

from hermes.aeriel.monitor._monitor import ServerMonitor, monitored
from hermes.aeriel.monitor._sample import COLUMNS

__all__ = ["COLUMNS", "ServerMonitor", "monitored"]
