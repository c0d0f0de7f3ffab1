"""When a task has failed for good, as Luigi's own scheduler sees it."""

from __future__ import annotations

import luigi
import pytest
from luigi.scheduler import Scheduler
from luigi.task_status import FAILED

from workflows._retries import has_failed_for_good, is_tried_again


class Failing(luigi.Task):
    """Takes its limits from the settings."""


class FailingThrice(luigi.Task):
    """Has a limit of its own."""

    retry_count = 3


@pytest.mark.parametrize("retry_count", [1, 2, 5])
def test_luigi_disables_a_task_when_it_has_failed_for_good(retry_count: int) -> None:
    limits = {"retry_count": retry_count, "disable_window": 60, "disable_hard_timeout": 99}
    scheduler = Scheduler(**limits, retry_delay=0.0)
    scheduler.add_task(worker="w", task_id="t")
    for n_failures in range(1, retry_count + 1):
        assert scheduler.get_work(worker="w")["task_id"] == "t"
        scheduler.add_task(worker="w", task_id="t", status=FAILED)
        is_disabled = "t" in scheduler.task_list(status="DISABLED", upstream_status="")
        assert is_disabled == has_failed_for_good([100.0] * n_failures, 100.0, **limits)
        scheduler.prune()


def test_old_failures_are_forgotten_and_the_first_is_not() -> None:
    limits = {"retry_count": 2, "disable_window": 10, "disable_hard_timeout": 100}
    assert has_failed_for_good([1.0, 5.0], 5.0, **limits)
    assert not has_failed_for_good([1.0, 50.0], 50.0, **limits)
    assert has_failed_for_good([1.0, 50.0, 101.0], 101.0, **limits)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> luigi.configuration.LuigiConfigParser:
    settings = luigi.configuration.LuigiConfigParser()
    monkeypatch.setattr(luigi.configuration.LuigiConfigParser, "_instance", settings)
    return settings


def test_a_task_is_tried_again_where_the_driver_stays_for_it(
    settings: luigi.configuration.LuigiConfigParser,
) -> None:
    assert not is_tried_again(Failing(), [1.0], 1.0)  # Luigi's own settings: after 900 s
    settings.set("worker", "keep_alive", "true")
    assert is_tried_again(Failing(), [1.0], 1.0)
    assert is_tried_again(FailingThrice(), [1.0, 2.0], 2.0)
    assert not is_tried_again(FailingThrice(), [1.0, 2.0, 3.0], 3.0)
    settings.set("scheduler", "retry_count", "1")
    assert not is_tried_again(Failing(), [1.0], 1.0)
    assert is_tried_again(FailingThrice(), [1.0], 1.0)
    settings.set("scheduler", "retry_delay", "-1")
    assert not is_tried_again(FailingThrice(), [1.0], 1.0)


def test_a_task_is_tried_again_where_that_comes_soon(
    settings: luigi.configuration.LuigiConfigParser,
) -> None:
    settings.set("scheduler", "retry_delay", "2")
    assert is_tried_again(Failing(), [1.0], 1.0)
