"""A short form of the chaos suite: one of each kind that matters most, with a fixed seed."""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos import chaos


@pytest.fixture(scope="module", autouse=True)
def prepared(triton_home: object) -> None:
    chaos.prepare()


@pytest.mark.parametrize(
    "fault",
    ["driver SIGKILL", "worker SIGKILL", "supervisor SIGKILL", "server SIGKILL", "shared server"],
)
def test_nothing_is_left_and_a_rerun_is_right(fault: str) -> None:
    outcome = chaos.once(fault, random.Random(os.environ.get("CHAOS_SEED", "7")), None, keep=False)
    assert outcome.happened
    assert outcome.problems == ()
