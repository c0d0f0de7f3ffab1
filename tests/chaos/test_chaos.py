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
    rng = random.Random(os.environ.get("CHAOS_SEED", "7"))
    # Early enough for the pipeline to be there still, however fast the machine is.
    outcome = chaos.once(fault, rng, latest_s=2.0)
    assert outcome.happened
    assert outcome.problems == ()
