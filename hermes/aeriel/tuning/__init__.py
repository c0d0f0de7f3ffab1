"""Find the settings with which a model is fast on this machine, by measuring."""

from hermes.aeriel.tuning._measure import Measurement
from hermes.aeriel.tuning._model import TunedModel
from hermes.aeriel.tuning._settings import Limits, ModelSettings, Settings
from hermes.aeriel.tuning._tune import Tuning, tune
from hermes.aeriel.tuning._words import (
    HEADS,
    check_extra,
    client_options,
    draw,
    free_name,
    row,
    table,
    write_config,
)

__all__ = [
    "HEADS",
    "Limits",
    "Measurement",
    "ModelSettings",
    "Settings",
    "TunedModel",
    "Tuning",
    "check_extra",
    "client_options",
    "draw",
    "free_name",
    "row",
    "table",
    "tune",
    "write_config",
]
