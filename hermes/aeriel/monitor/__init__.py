"""Record a Triton server's statistics over time."""

from hermes.aeriel.monitor._monitor import ServerMonitor
from hermes.aeriel.monitor._sample import COLUMNS

__all__ = ["COLUMNS", "ServerMonitor"]
