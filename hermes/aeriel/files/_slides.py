"""Time slides: the same files several times, with the channels shifted against each other."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.files._facts import InputFacts
from hermes.errors import ParameterError

_SHIFT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(s?)\s*")
_STEP = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(s?)\s*")


def n_slides(options: InferenceOptions) -> int:
    """Return how many time slides there are; 1 is an ordinary run.

    Raises
    ------
    ParameterError
        Options do not go together.
    """
    if options.n_slides < 0:
        raise ParameterError("n_slides", f"{options.n_slides} is below 0")
    if not options.n_slides:
        if options.slide_step:
            raise ParameterError("slide_step", "applies with n_slides alone")
        return len(options.shifts) if _are_slides(options) else 1
    if options.shifts:
        raise ParameterError("n_slides", "does not go with shifts, which name the slides")
    if not options.slide_step:
        raise ParameterError("n_slides", "needs a slide_step, such as 1s")
    if not options.window:
        raise ParameterError("n_slides", "is of windows; give the length of a window as window")
    return options.n_slides


def slides_of(
    options: InferenceOptions, examine: Callable[[InferenceOptions], InputFacts]
) -> tuple[InferenceOptions, ...]:
    """Return the options of each time slide, which names its shifts; one of an ordinary run.

    Parameters
    ----------
    options
        How the files are read.
    examine
        Returns what is known of an input with other options: how many channels there are.

    Raises
    ------
    ParameterError
        Options do not go together, the step is no time, there is but one channel, or a slide is
        there twice.
    """
    number = n_slides(options)
    plain = replace(options, shifts=(), n_slides=0, slide_step="")
    if options.n_slides:
        slides = _stepped(number, options.slide_step, _n_channels(examine(plain)))
    elif _are_slides(options):
        slides = tuple(shifts for shifts in options.shifts if not isinstance(shifts, str))
    else:
        return (options,)
    known: dict[tuple[object, ...], int] = {}
    for number, shifts in enumerate(slides):
        if (first := known.setdefault(_against_first(shifts), number)) != number:
            problem = f"slide {number} has its channels against each other as slide {first} has"
            raise ParameterError("shifts", f"{problem}; it would count the same time twice")
    return tuple(replace(plain, shifts=shifts) for shifts in slides)


def slide_file(file: Path, number: int, total: int) -> Path:
    """Return the output of a slide, by that of a run with one: in a directory for each slide."""
    return file if total == 1 else file.parent / f"slide-{number}" / file.name


def check_one_slide(options: InferenceOptions) -> None:
    """Raise ParameterError where there are several slides, each of which is a run of its own."""
    if n_slides(options) > 1 or options.n_slides or _are_slides(options):
        raise ParameterError("shifts", "has several slides; run one after the other: see slides_of")


def _stepped(number: int, step: str, n_channels: int) -> tuple[tuple[str, ...], ...]:
    """Return shifts of each slide: in slide k, channel c is shifted by k * c steps."""
    if n_channels < 2:
        raise ParameterError("n_slides", "needs two channels, to be shifted against each other")
    match = _STEP.fullmatch(step)
    length = Decimal(match[1]) if match else Decimal()
    if match is None or not length:
        problem = (
            f"{step!r} is neither a number of samples, such as 1024, nor seconds, such as 1.5s"
        )
        raise ParameterError("slide_step", f"{problem}, above 0")
    return tuple(
        tuple(f"{k * c * length:f}{match[2]}" for c in range(n_channels)) for k in range(number)
    )


def _against_first(shifts: tuple[str, ...]) -> tuple[object, ...]:
    """Return how much later each channel is than the first, as far as the texts say it."""
    found = [_SHIFT.fullmatch(shift) for shift in shifts]
    numbers = [Decimal(match[1]) for match in found if match]
    units = {match[2] for match in found if match and Decimal(match[1])}
    if len(numbers) < len(shifts) or len(units) > 1:
        return shifts
    later = tuple(number - numbers[0] for number in numbers)
    return (*units, *later) if any(later) else later


def _n_channels(facts: InputFacts) -> int:
    shape = next(iter(facts.datasets.values())).shape
    return shape[1] if len(shape) > 2 else 1


def _are_slides(options: InferenceOptions) -> bool:
    return bool(options.shifts) and not isinstance(options.shifts[0], str)
