"""Options: name, default, help text, and whether each changes results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal

from hermes.errors import ParameterError

# The dataset of each model input, or the datasets of the channels of a time series.
InputMap = Mapping[str, str | tuple[str, ...]]
# How much later the windows of each channel begin; or that for each of several time slides.
Shifts = tuple[str, ...] | tuple[tuple[str, ...], ...]
# What a text of them has to be, in a message.
SHIFTS = (
    'a list of the shift of each channel in seconds, as [0, 1] or ["0s", "1s"] (or in samples, as '
    '"1024"), or of such lists, one for each slide'
)
# The latest version, which is the server's choice; tritonclient and ml4gw-hermes have it so.
LATEST = "-1"

TransportName = Literal["auto", "grpc", "http", "shm"]


def read_map(text: str) -> Any:
    """Return the map in a text: a JSON object, or one pair as ``x=/path``.

    Raises
    ------
    ValueError
        The text is neither. JSON of another kind is returned, for the caller to refuse.
    """
    name, _, value = text.partition("=")
    is_json = text.lstrip().startswith(("{", "["))
    return {name: value} if name and value and not is_json else json.loads(text)


def as_input_map(value: Any) -> dict[str, str | tuple[str, ...]]:
    """Return a map of paths, or of lists of them, with tuples for lists.

    Raises
    ------
    ValueError
        The value is something else.
    """
    if not isinstance(value, Mapping):
        raise ValueError(value)  # noqa: TRY004 (text is read into it)
    found: dict[str, str | tuple[str, ...]] = {}
    for name, paths in value.items():
        several = paths if isinstance(paths, list | tuple) else [paths]
        if not several or not all(isinstance(text, str) for text in (name, *several)):
            raise ValueError(value)
        found[name] = paths if isinstance(paths, str) else tuple(paths)
    return found


def as_shifts(value: Any) -> Shifts:
    """Return the shifts of channels, or a list of those of time slides, as tuples of texts.

    Numbers are seconds.

    Raises
    ------
    ValueError
        The value is something else.
    """
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise ValueError(value)  # noqa: TRY004 (text is read into it)
    if values and all(isinstance(each, list | tuple) and each for each in values):
        return tuple(tuple(map(_shift, each)) for each in values)
    return tuple(map(_shift, values))


def _shift(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return f"{Decimal(repr(value)):f}s" if value else "0"


def join_shifts(parameter: str, values: Sequence[Shifts]) -> Shifts:
    """Return several shifts as one: of more channels, or of more slides.

    Raises
    ------
    ParameterError
        Some are of channels, and some of slides.
    """
    joined: Any = tuple(each for shifts in values for each in shifts)
    if len({isinstance(each, str) for each in joined}) > 1:
        problem = "is given for channels and for slides; give a list of slides"
        raise ParameterError(parameter, problem)
    return joined  # type: ignore[no-any-return]  # all of one kind


def join_maps(parameter: str, maps: Sequence[InputMap]) -> dict[str, str | tuple[str, ...]]:
    """Return several maps as one.

    Raises
    ------
    ParameterError
        Two of them disagree.
    """
    joined: dict[str, str | tuple[str, ...]] = {}
    for name, text in (item for each in maps for item in each.items()):
        if joined.setdefault(name, text) != text:
            raise ParameterError(parameter, f"{name!r} is given as {joined[name]} and as {text}")
    return joined


def option(text: str, default: Any = MISSING, *, changes_result: bool = True) -> Any:
    """Return the field of an option, for a dataclass of options."""
    metadata = {"help": text, "changes_result": changes_result}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How files go through a model.

    The options of the command ``hermes infer`` and the parameters of an `InferenceTask` are made of
    these fields, and what stands for a result depends on them. Their help texts say what they are.
    """

    model_name: str = option("Name of the model in the repository.")
    model_version: str = option("Its version; none: the server's choice.", "")
    input_map: InputMap = option(  # noqa: RUF009 (a field)
        "The dataset for each model input; a list of them: the channels of a series.", {}
    )
    outputs: tuple[str, ...] = option("Outputs to keep; none: all.", ())
    batch_size: int = option(
        "Rows of a request; 0: what suits the model, which is 1 where it keeps a state.", 0
    )
    rows_per_sequence: int = option(
        "Rows of a sequence, for a model that keeps a state; 0: a file is a sequence.", 0
    )
    cast: bool = option("Round numbers to a model's floating-point input.", False)
    finite: str = option("What has to be finite: inputs, outputs, or inputs,outputs.", "")
    allow_external_data: bool = option(
        "Raw data of a dataset may lie outside its file's directory.", False, changes_result=False
    )
    skip_empty: bool = option(
        "Leave out files that have no rows, with a warning.", False, changes_result=False
    )
    keep: str = option("Rows to store, such as 'snr > 8'; none: all.", "")
    varying: tuple[str, ...] = option("Outputs with another length in each row.", ())
    window: str = option(
        "Cut time series into windows of this length, as 1024 (samples) or 1.5s.", ""
    )
    stride: str = option("From one window to the next, likewise; none: the window's length.", "")
    shifts: Shifts = option(  # noqa: RUF009 (a field)
        "How much later each channel's windows begin, likewise; negative for earlier. A list of "
        "such lists: time slides, each of which every file is run for.",
        (),
    )
    n_slides: int = option(
        "How many time slides; in slide k, channel c is shifted by k * c steps. 0: see shifts.", 0
    )
    slide_step: str = option("The step of these slides, as 1s, or in samples.", "")
    sample_rate: float = option("Samples per second; 0: what the file says.", 0.0)
    overlap: bool = option(
        "Take the time that channels have in common, where it is not the same.", False
    )
    max_in_flight: int = option(
        "Requests under way at once; 0: what suits.", 0, changes_result=False
    )
    transport: TransportName = option(  # noqa: RUF009 (a field)
        "How tensors travel; auto: through shared memory where that works.",
        "auto",
        changes_result=False,
    )
    rate_hz: float = option("Most requests in a second; 0: no limit.", 0.0, changes_result=False)
    timeout_s: float = option("Seconds for one request.", 60.0, changes_result=False)
    retry_for_s: float = option(
        "Seconds to wait for a server that was lost.", 120.0, changes_result=False
    )

    def __post_init__(self) -> None:
        if self.model_version == LATEST:
            object.__setattr__(self, "model_version", "")

    def facts(self) -> dict[str, Any]:
        """Return the options that change the result, for a fingerprint."""
        named = [each.name for each in fields(self) if each.metadata["changes_result"]]
        facts = {name: getattr(self, name) for name in named}
        return {**facts, "input_map": dict(self.input_map), "varying": sorted(set(self.varying))}

    def client(self) -> dict[str, Any]:
        """Return the keyword arguments of an `InferenceClient`, but for the endpoint."""
        return {
            "model_name": self.model_name,
            "model_version": self.model_version,
            "outputs": self.outputs or None,
            "max_in_flight": self.max_in_flight or None,
            "transport": self.transport,
            "rate_hz": self.rate_hz or None,
            "timeout_s": self.timeout_s,
            "retry_for_s": self.retry_for_s,
        }


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """What predictions are measured by, and held against.

    The options of the command ``hermes validate`` and the parameters of ``Validate`` are made of
    these fields. Their help texts say what they are.
    """

    metrics: tuple[str, ...] = option("Metrics to compute; none: what suits the target.", ())
    require: tuple[str, ...] = option("Requirements, such as 'accuracy >= 0.95'.", ())
    output_name: str = option(
        "The output to compare with the target, for a model with several.", ""
    )
    scores: str = option("What scores of classes are: auto, probabilities or logits.", "auto")
    rtol: float = option("Relative tolerance of the metric reference.", 1e-5)
    atol: float = option("Absolute tolerance of the metric reference.", 1e-8)
    baseline: str = option(
        "Output directory of another validation of these rows, to compare with.", ""
    )
    title: str = option("Headline of the report.", "", changes_result=False)

    def facts(self) -> dict[str, Any]:
        """Return the options that change the result, for a fingerprint; but for the baseline."""
        return {
            "metrics": self.metrics,
            "require": self.require,
            "output_name": self.output_name,
            "scores": self.scores,
            "tolerance": [self.rtol, self.atol],
        }
