"""The settings that can be chosen, and which to try next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

MOST_IN_FLIGHT = 64
MOST_INSTANCES_OF_GPU = 4


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings in a model's configuration.

    Parameters
    ----------
    instances
        How many instances execute at a time.
    threads
        The threads of an instance; 0 for the backend's default.
    preferred
        The batches that the dynamic batcher prefers; empty for any; None where there is no dynamic
        batcher.
    """

    instances: int
    threads: int = 0
    preferred: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a model, and those of its client.

    Parameters
    ----------
    model
        Those in its configuration.
    batch_size
        Rows of a request.
    in_flight
        Requests under way at a time.
    """

    model: ModelSettings
    batch_size: int
    in_flight: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What settings a model can have.

    Parameters
    ----------
    most_rows
        The most rows of a request.
    max_batch_size
        The most rows that the model is executed with; 0 where it has no batch dimension.
    n_cores
        The cores of this machine; 0 where the model is executed on a GPU.
    has_threads
        Whether the number of threads is a setting of the model's backend.
    """

    most_rows: int
    max_batch_size: int
    n_cores: int
    has_threads: bool


def in_flight_candidates(settings: Settings, factor: int) -> Iterator[Settings]:
    """Yield the same settings with more, and with fewer, requests under way."""
    for value in (settings.in_flight * factor, settings.in_flight // factor):
        if 1 <= value <= MOST_IN_FLIGHT:
            yield replace(settings, in_flight=value)


def batch_candidates(settings: Settings, limits: Limits, factor: int) -> Iterator[Settings]:
    """Yield the same settings with smaller, and with larger, requests."""
    smaller = settings.batch_size // factor
    larger = min(settings.batch_size * factor, limits.most_rows)
    for value in (smaller, larger):
        if value >= 1 and value != settings.batch_size:
            yield replace(settings, batch_size=value)


def instance_candidates(settings: Settings, limits: Limits) -> Iterator[Settings]:
    """Yield the same settings with other instances and threads, the most promising first."""
    if limits.n_cores:
        cores = limits.n_cores
        pairs = [(cores, 1), (1, 1), (1, cores), (max(1, cores // 2), 2), (2 * cores, 1)]
    else:
        pairs = [(count, 0) for count in range(1, MOST_INSTANCES_OF_GPU + 1)]
    for instances, threads in dict.fromkeys(pairs):
        model = replace(
            settings.model, instances=instances, threads=threads if limits.has_threads else 0
        )
        # Each instance needs a request to execute, and one that waits for it.
        in_flight = max(settings.in_flight, 2 * instances)
        yield replace(settings, model=model, in_flight=in_flight)


def batcher_candidates(settings: Settings, limits: Limits) -> Iterator[Settings]:
    """Yield the same settings with another dynamic batcher, where it could join requests."""
    most = limits.max_batch_size
    if most < 2 * settings.batch_size:
        return
    several = settings.batch_size * min(settings.in_flight, most // settings.batch_size)
    for preferred in dict.fromkeys(((), (several,), (most,), None)):
        model = replace(settings.model, preferred=preferred)
        yield replace(settings, model=model)
