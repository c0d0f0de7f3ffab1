"""What the soak takes for growth."""

from __future__ import annotations

import pytest

from tests.soak.soak import ALLOWED, growing, table


def samples(name: str, values: list[float]) -> list[dict[str, float]]:
    return [{**dict.fromkeys(ALLOWED, 9.0), name: value} for value in values]


@pytest.mark.parametrize("name", ALLOWED)
def test_what_rises_with_every_restart_grows(name: str) -> None:
    found = samples(name, [5.0 + 2 * n for n in range(20)])
    assert growing(found) == [name]
    assert [line.split()[0] for line in table(found).splitlines() if "grows" in line] == [
        name.split(maxsplit=1)[0]
    ]


@pytest.mark.parametrize("name", ALLOWED)
def test_what_only_fills_at_first_or_for_a_moment_does_not_grow(name: str) -> None:
    assert growing(samples(name, [1.0, 20.0, 30.0, *[30.0] * 9, 99.0, *[30.0] * 5])) == []


def test_no_sample_is_no_growth() -> None:
    assert growing([]) == []
    assert "grows" not in table([])
