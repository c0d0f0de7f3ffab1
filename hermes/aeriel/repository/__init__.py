"""What a model repository says of a model before any server reads it."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel.repository._model import (
        RepositoryModel,
        check_model,
        class_names,
        read_model,
    )
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = ["RepositoryModel", "check_model", "class_names", "read_model"]
