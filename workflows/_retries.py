"""Whether Luigi will try a failed task again, which it decides by itself and tells nobody."""

from __future__ import annotations

from collections.abc import Sequence

import luigi
from luigi.scheduler import scheduler
from luigi.worker import worker

# A driver that does not stay for a failed task (keep_alive) has it again where that comes soon.
SOON_S = 10.0


def is_tried_again(task: luigi.Task, failed_at: Sequence[float], now: float) -> bool:
    """Tell whether Luigi tries a task again that has failed just now.

    It goes by the settings of this process, and by the task's own; a luigid may have others.

    Parameters
    ----------
    task
        The task.
    failed_at
        When it has failed so far, in seconds since the epoch; the last one is now.
    now
        The time.
    """
    settings = scheduler()
    if settings.retry_delay < 0:
        return False
    is_awaited = worker().keep_alive or settings.retry_delay < SOON_S
    names = ("retry_count", "disable_window", "disable_hard_timeout")
    own = {name: getattr(task, name) for name in names}
    limits = {name: getattr(settings, name) if own[name] is None else own[name] for name in names}
    return bool(is_awaited and not has_failed_for_good(failed_at, now, **limits))


def has_failed_for_good(
    failed_at: Sequence[float],
    now: float,
    *,
    retry_count: int,
    disable_window: float,
    disable_hard_timeout: float,
) -> bool:
    """Tell whether Luigi disables a task: see ``luigi.scheduler.Task.has_excessive_failures``."""
    recent = [at for at in failed_at if at >= now - disable_window]
    return len(recent) >= retry_count or now >= min(failed_at) + disable_hard_timeout
