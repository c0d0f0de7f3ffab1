"""Files with one channel each, as of several detectors, brought together by their times."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes.aeriel import client
from hermes.aeriel._options import InferenceOptions, InputMap
from hermes.aeriel.files._facts import listed
from hermes.aeriel.files._finding import find_files
from hermes.aeriel.files._inputs import NO_ROWS, inspect, open_channel
from hermes.aeriel.files._window_options import WindowOptions
from hermes.errors import DataError, ParameterError

NAMED = 5


@dataclass(frozen=True, kw_only=True)
class FoundInputs:
    """What was found.

    Parameters
    ----------
    inputs
        The files of each input: one, or one for each channel, in the order of the channels.
    left_out
        Files whose time no file of another channel has; only where the overlap is taken.
    empty
        Files that have no rows; only where these are to be left out.
    """

    inputs: tuple[tuple[Path, ...], ...]
    left_out: tuple[Path, ...] = ()
    empty: tuple[Path, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """A sentence on the files that were left out, where there are any."""
        reasons = (("without a partner", self.left_out), ("without rows", self.empty))
        return [
            f"{len(files)} files {reason} were left out: {listed(files, NAMED)}"
            for reason, files in reasons
            if files
        ]


@dataclass(frozen=True, kw_only=True)
class Span:
    """The time that a file is of, in seconds; and samples per second."""

    file: Path
    begin: float
    end: float
    rate: float

    def __str__(self) -> str:
        return f"{self.file} ({self.begin:.10g} to {self.end:.10g} s)"


def find_inputs(
    given: Sequence[str] | InputMap,
    options: InferenceOptions,
    model: client.ModelSpecification | None,
) -> FoundInputs:
    """Return the inputs that paths and patterns name: a file each, or a file for each channel.

    Parameters
    ----------
    given
        Paths and glob patterns; or, by the name of a channel, those of the files that have it.
        Files of different channels are brought together where they begin at the same time; with
        ``options.overlap`` where they have time in common, for a window at least.
    options
        How the files are to be read.
    model
        The model, if it is known already.

    Raises
    ------
    ParameterError
        What `find_files` raises; or a file has no partner, files of one channel are of one time,
        or the series are not cut into windows.
    DataError
        A file cannot be read, or says no start time or sample rate.
    """
    if not isinstance(given, Mapping):
        files = find_files(given)
        empty = [file for file in files if options.skip_empty and _is_empty(file, options, model)]
        kept = tuple((file,) for file in files if file not in empty)
        if not kept:
            raise ParameterError("inputs", f"none of the {len(files)} files has rows")
        return FoundInputs(inputs=kept, empty=tuple(empty))
    cut = WindowOptions.of(options)
    if cut is None:
        problem = "files of several channels are time series; give the length of a window as window"
        raise ParameterError("inputs", problem)
    spans = {}
    for number, (label, patterns) in enumerate(given.items()):
        files = find_files([patterns] if isinstance(patterns, str) else patterns)
        found = [_span(file, number, options, model, cut) for file in files]
        spans[label] = sorted(found, key=lambda span: span.begin)
    if not spans:
        find_files([])
    return bring_together(spans, cut)


def _is_empty(
    file: Path, options: InferenceOptions, model: client.ModelSpecification | None
) -> bool:
    names = None if model is None else list(model.inputs)
    try:
        inspect(file, options.input_map, model_inputs=names, cut=WindowOptions.of(options))
    except DataError as error:
        return error.problem == NO_ROWS  # whatever else is wrong is found, and said, later
    return False


def bring_together(spans: Mapping[str, Sequence[Span]], cut: WindowOptions) -> FoundInputs:
    """Return which files have the same time, or, with `cut.overlap`, a window of it in common.

    Parameters
    ----------
    spans
        The files of each channel, in the order of their times.
    cut
        How their series are cut into windows.

    Raises
    ------
    ParameterError
        A file has no partner, and the overlap is not taken; or files of one channel are of one
        time.
    """
    for label, several in spans.items():
        for span, following in itertools.pairwise(several):
            if following.begin < span.end - 0.5 / span.rate:
                raise ParameterError("inputs", f"{label}: {span} and {following} are of one time")
    first, *others = spans.values()
    together: list[tuple[Span, ...]] = [(span,) for span in first]
    for several in others:
        begins, ends = [span.begin for span in several], [span.end for span in several]
        together = [
            (*earlier, several[number])
            for earlier in together
            for number in _partners(earlier, begins, ends, cut)
        ]
    matched = {span.file for group in together for span in group}
    alone = {
        label: [span for span in several if span.file not in matched]
        for label, several in spans.items()
    }
    if any(alone.values()) and (not cut.overlap or not together):
        texts = [f"{label}: {listed(alone[label], NAMED)}" for label in alone if alone[label]]
        what = "have no partner of another channel that begins at the same time"
        advice = "leave them out, or give overlap to take the time that channels have in common"
        if cut.overlap:
            what, advice = "have no time in common with those of another channel", "give others"
        raise ParameterError("inputs", f"files {what}: {'; '.join(texts)}; {advice}")
    return FoundInputs(
        inputs=tuple(tuple(span.file for span in group) for group in together),
        left_out=tuple(span.file for several in alone.values() for span in several),
    )


def _span(
    file: Path,
    number: int,
    options: InferenceOptions,
    model: client.ModelSpecification | None,
    cut: WindowOptions,
) -> Span:
    names = None if model is None else list(model.inputs)
    with open_channel(file, options.input_map, number, model_inputs=names) as dataset:
        series = cut.stack([dataset])
        if not series.says_start or not series.sample_rate:
            what = "start time" if series.sample_rate else "sample rate"
            problem = f"says no {what}, by which files of several channels are brought together"
            raise series.error(problem)
        begin = series.start_time
        end = begin + series.n_samples / series.sample_rate
        return Span(file=file, begin=begin, end=end, rate=series.sample_rate)


def _partners(
    group: Sequence[Span], begins: Sequence[float], ends: Sequence[float], cut: WindowOptions
) -> Sequence[int]:
    """Return the numbers of the files that go with those of other channels."""
    rate = group[0].rate
    half = 0.5 / rate
    if not cut.overlap:
        begin = group[0].begin
        return range(bisect_left(begins, begin - half), bisect_right(begins, begin + half))
    begin, end = max(span.begin for span in group), min(span.end for span in group)
    least = client.Windows.cut(0, window=cut.window, sample_rate=rate).window / rate - half
    near = range(bisect_right(ends, begin), bisect_left(begins, end))
    return [i for i in near if min(end, ends[i]) - max(begin, begins[i]) > least]
