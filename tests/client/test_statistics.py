from __future__ import annotations

import math
import threading
import time

import pytest

from hermes.aeriel.client import ClientStatistics
from hermes.aeriel.client._statistics import Recorder


def test_nothing_done_is_no_number_rather_than_an_error() -> None:
    nothing = Recorder().snapshot()
    assert nothing == ClientStatistics()
    assert nothing.requests == 0
    for number in (nothing.rows_per_s, nothing.megabytes_per_s, nothing.latency_ms(0.5)):
        assert math.isnan(number)


def test_answers_are_counted_with_their_rows_and_bytes() -> None:
    recorder = Recorder()
    for rows in (1, 4):
        recorder.answered(recorder.start(), rows, 500_000)
    recorder.failed()
    recorder.retried()
    recorder.retried()

    done = recorder.snapshot()

    assert (done.requests, done.rows, done.megabytes) == (2, 5, 1.0)
    assert (done.failures, done.retries) == (1, 2)


def test_time_runs_from_the_first_request_to_the_last_answer() -> None:
    recorder = Recorder()
    first = recorder.start()
    time.sleep(0.05)
    recorder.answered(recorder.start(), 1, 0)
    recorder.answered(first, 1, 0)
    time.sleep(0.2)

    done = recorder.snapshot()

    assert 0.05 <= done.seconds < 0.2
    assert done.rows_per_s == pytest.approx(2 / done.seconds)


def test_latency_is_right_within_two_percent() -> None:
    recorder = Recorder()
    for milliseconds in range(1, 101):
        recorder.answered(time.perf_counter() - milliseconds / 1e3, 1, 0)

    done = recorder.snapshot()

    for share, milliseconds in ((0.5, 50), (0.99, 99), (1.0, 100)):
        assert done.latency_ms(share) == pytest.approx(milliseconds, rel=0.03)


def test_statistics_of_several_clients_add_up() -> None:
    one = ClientStatistics(rows=1, failures=2, retries=3, seconds=4, megabytes=5, latencies={6: 7})
    two = ClientStatistics(rows=1, seconds=1, latencies={6: 1, 8: 1})
    assert ClientStatistics.sum([one, two]) == ClientStatistics(
        rows=2, failures=2, retries=3, seconds=5, megabytes=5, latencies={6: 8, 8: 1}
    )
    assert ClientStatistics.sum([]) == ClientStatistics()


def test_threads_do_not_lose_each_others_counts() -> None:
    recorder = Recorder()

    def work() -> None:
        for _ in range(2000):
            recorder.answered(recorder.start(), 1, 1_000)
            recorder.failed()
            recorder.retried()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    done = recorder.snapshot()
    assert (done.requests, done.rows, done.failures, done.retries) == (8000,) * 4
    assert done.megabytes == 8.0
