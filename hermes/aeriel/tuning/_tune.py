"""The search for the fastest settings, in a bounded time."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import tritonclient.grpc

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files import InferenceOptions, examine, plan
from hermes.aeriel.monitor import ServerMonitor
from hermes.aeriel.serve import TritonInstance, serve, why_no_gpu
from hermes.aeriel.tuning._measure import (
    WARM_UP,
    Measurement,
    gpu_memory_bytes,
    measure_rows,
    memory_bytes,
)
from hermes.aeriel.tuning._model import TunedModel
from hermes.aeriel.tuning._settings import (
    Limits,
    ModelSettings,
    Settings,
    batch_candidates,
    batcher_candidates,
    in_flight_candidates,
    instance_candidates,
)
from hermes.errors import HermesError, ParameterError

logger = logging.getLogger(__name__)

# A setting has to be so much faster to be preferred: what is measured varies by some percent.
MARGIN = 1.05
LEAST_S, MOST_S = 1.0, 10.0


@dataclass(kw_only=True)
class Tuning:
    """What a search has measured.

    Attributes
    ----------
    model
        The model, with the configuration that it has.
    limits
        The settings that were possible.
    measurements
        All of them, in order; the first is of the settings that the model and the client have now.
    confirmed
        Rows per second of the settings of now and of the fastest ones, measured alternately at the
        end; empty where there was no time, or they are the same.
    """

    model: TunedModel
    limits: Limits
    measurements: list[Measurement] = field(default_factory=list)
    confirmed: list[tuple[float, float]] = field(default_factory=list)

    @property
    def now(self) -> Measurement:
        """That of the settings of now."""
        return self.measurements[0]

    @property
    def best(self) -> Measurement:
        """The fastest one, or an earlier one that is hardly slower."""
        best = self.now
        for measurement in self.measurements:
            if measurement.rows_per_s > MARGIN * best.rows_per_s:
                best = measurement
        return best

    @property
    def is_faster(self) -> bool:
        """Whether there are faster settings, also when they were measured again."""
        return self.best is not self.now and self.gain > MARGIN

    @property
    def gain(self) -> float:
        """How many times as fast the best settings are as those of now."""
        if not self.confirmed:
            return self.best.rows_per_s / self.now.rows_per_s
        now = sum(pair[0] for pair in self.confirmed)
        return sum(pair[1] for pair in self.confirmed) / now if now else math.nan


def tune(
    repository: Path,
    model_name: str,
    inputs: Sequence[Sequence[Path]],
    options: InferenceOptions,
    *,
    seconds: float,
    on_measured: Callable[[Measurement], None],
    **serve_options: Any,
) -> Tuning:
    """Return what was measured of a model with one set of settings after another.

    Each is measured for a sixtieth of the time: first those of now, then requests in flight and
    batches, instances and threads, the dynamic batcher, and requests again. A setting is kept where
    it makes the model faster by 5 %. At last the fastest settings and those of now are measured
    alternately.

    Parameters
    ----------
    repository, model_name
        The model, which is not changed.
    inputs
        The HDF5 files of each input, which are read again and again.
    options
        How to read them. Its `batch_size` and `max_in_flight` are where the search begins.
    seconds
        How long to search. The server's last start, and one that is under way, are not cut off.
    on_measured
        Called after each measurement.
    serve_options
        Keyword arguments of `serve`: the image, GPUs, flags.

    Raises
    ------
    ParameterError
        The model is an ensemble, or an option does not suit it.
    DataError, ServerError, InferenceError
        It cannot be measured with the settings of now.
    """
    deadline = time.monotonic() + seconds
    model = TunedModel.read(repository, model_name)
    measure_s = min(MOST_S, max(LEAST_S, seconds / 60))
    with _Bench(model, inputs, options, seconds=measure_s, serve_options=serve_options) as bench:
        first, limits = bench.begin()
        tuning = Tuning(model=bench.model, limits=limits)

        def measured(settings: Settings) -> Measurement:
            measurement = bench.measure(settings)
            tuning.measurements.append(measurement)
            on_measured(measurement)
            return measurement

        if problem := measured(first).problem:
            raise ParameterError("model", f"{model_name!r} cannot be measured: {problem}")
        for candidate in _search(tuning):
            # Comparing at the end takes three starts, and four measurements.
            n_starts = 3 + (candidate.model != bench.served)
            left_s = deadline - time.monotonic()
            if n_starts * bench.start_s + 5 * measure_s * (1 + WARM_UP) > left_s:
                logger.info("the time is up after %s measurements", len(tuning.measurements))
                break
            measured(candidate)
        if tuning.best is not tuning.now:
            # In this order a machine that gets steadily slower, or faster, is fair to both.
            order = (tuning.now, tuning.best, tuning.best, tuning.now)
            speeds = [bench.measure(each.settings).rows_per_s for each in order]
            tuning.confirmed = [(speeds[0], speeds[1]), (speeds[3], speeds[2])]
    return tuning


def _search(tuning: Tuning) -> Iterator[Settings]:
    """Yield settings to measure, each of which is measured before the next one is asked for."""
    limits = tuning.limits

    def fastest() -> Settings:
        return tuning.best.settings

    def untried(candidates: Iterator[Settings]) -> Iterator[Settings]:
        tried = {measurement.settings for measurement in tuning.measurements}
        return (each for each in candidates if each not in tried)

    def climb(candidates: Callable[[Settings], Iterator[Settings]]) -> Iterator[Settings]:
        """Yield candidates from the fastest settings on, as long as they get faster."""
        while True:
            before = fastest()
            for each in untried(candidates(before)):
                yield each
                if fastest() != before:
                    break
            if fastest() == before:
                return

    yield from climb(lambda settings: in_flight_candidates(settings, 2))
    yield from climb(lambda settings: batch_candidates(settings, limits, 4))
    yield from untried(instance_candidates(fastest(), limits))
    yield from untried(batcher_candidates(fastest(), limits))
    yield from climb(lambda settings: in_flight_candidates(settings, 2))
    yield from climb(lambda settings: batch_candidates(settings, limits, 2))


class _Bench:
    """One server at a time, with the settings that are to be measured."""

    def __init__(
        self,
        model: TunedModel,
        inputs: Sequence[Sequence[Path]],
        options: InferenceOptions,
        *,
        seconds: float,
        serve_options: dict[str, Any],
    ) -> None:
        self.model = model
        # The settings of the server that runs; None for those of the model's files.
        self.served: ModelSettings | None = None
        # The longest time that a server took to start.
        self.start_s = 0.0
        self._inputs, self._options, self._seconds = inputs, options, seconds
        self._serve_options = serve_options
        self._stack, self._server = ExitStack(), ExitStack()
        self._instance: TritonInstance | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            prefix = "hermes-tune-"
            self._directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
            undo.enter_context(self._server)
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self) -> tuple[Settings, Limits]:
        """Return the settings of now, and those that are possible, from a first server."""
        instance = self._start(None)
        if not self.model.config.name and not self.model.config.input:
            with closing(tritonclient.grpc.InferenceServerClient(instance.endpoint.grpc)) as client:
                answer = client.get_model_config(self.model.name)
            self.model = self.model.with_config(answer.config)
        with InferenceClient(instance.endpoint, **self._options.client()) as client:
            specification = client.specification
            facts = examine(self._inputs[0], self._options, specification)
            rows = plan(facts, self._options, specification).requests.rows_per_request
            in_flight = client.max_in_flight
        is_batched = specification.max_batch_size > 0 and not specification.stateful
        on_cpu = self.model.on_cpu or self._serve_options.get("cpu") or why_no_gpu() is not None
        self.served = self.model.settings
        settings = Settings(model=self.served, batch_size=rows, in_flight=in_flight)
        return settings, Limits(
            most_rows=max(rows, specification.max_batch_size if is_batched else 1),
            max_batch_size=specification.max_batch_size if is_batched else 0,
            n_cores=len(os.sched_getaffinity(0)) if on_cpu else 0,
            has_threads=self.model.thread_parameter is not None,
        )

    def measure(self, settings: Settings) -> Measurement:
        """Return how fast the model is with some settings; why it cannot be served, if so."""
        try:
            instance = self._start(settings.model)
            rows_per_s = measure_rows(
                instance.endpoint, self._inputs, self._options, settings, seconds=self._seconds
            )
        except HermesError as error:
            self._stop()
            return Measurement(settings=settings, problem=str(error).partition("\n")[0])
        return Measurement(
            settings=settings,
            rows_per_s=rows_per_s,
            memory_bytes=memory_bytes(instance.server_id),
            gpu_memory_bytes=gpu_memory_bytes(self._directory / "monitor.csv"),
        )

    def _start(self, settings: ModelSettings | None) -> TritonInstance:
        """Return the server with some settings: the one that runs, or a new one."""
        if self._instance is not None and settings == self.served:
            return self._instance
        self._stop()
        begun = time.monotonic()
        repository = self._directory / "models"
        is_copied = bool(self._serve_options.get("image"))
        self.model.lay_out(repository, settings, copy=is_copied)
        monitor = self._directory / "monitor.csv"
        monitor.unlink(missing_ok=True)
        server = serve(repository, listen="unix", wait=True, **self._serve_options)
        instance = self._server.enter_context(server)
        self._server.enter_context(ServerMonitor(lambda: instance.endpoint, monitor))
        self._instance, self.served = instance, settings
        self.start_s = max(self.start_s, time.monotonic() - begun)
        return instance

    def _stop(self) -> None:
        self._instance = None
        self._server.close()
