"""Find the settings with which a model is fast on this machine, by measuring."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
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
else:
    __getattr__, __dir__ = import_on_use(__name__)

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
