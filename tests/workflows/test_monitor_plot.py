"""A monitor's table in short says how fast a server was, and when it was not there."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hermes.aeriel.monitor import COLUMNS
from hermes.aeriel.report._monitor_plot import (
    MAX_MODELS,
    MAX_POINTS,
    describe_server,
    summarise,
)
from hermes.aeriel.report._page import render_report
from hermes.aeriel.report._report import build_report

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path


def row(
    second: float, count: int, name: str = "m", state: str = "ok", **more: Any
) -> dict[str, Any]:
    return {
        "time": (BEGIN + timedelta(seconds=second)).isoformat(timespec="milliseconds"),
        "state": state,
        "kind": "model",
        "name": name,
        "version": "1",
        "requests": count,
        "inferences": 10 * count,
        "queue_s": 0.002 * count,
        **more,
    }


def test_speed_and_queue_are_those_between_samples(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", row(0, 5), row(1, 7), row(2, 7), row(3, 17))
    summary = summarise(table, since=BEGIN)
    assert summary is not None
    assert summary["seconds"] == [1.0, 2.0, 3.0]
    assert summary["models"]["m"]["rows_per_s"] == [20.0, 0.0, 100.0]
    assert summary["models"]["m"]["queue_ms"] == [pytest.approx(2.0), None, pytest.approx(2.0)]


def test_what_was_before_is_left_out(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", row(-10, 0), row(0, 1000), row(1, 1001))
    summary = summarise(table, since=BEGIN)
    assert summary is not None
    assert summary["models"]["m"]["rows_per_s"] == [10.0]


def test_a_restart_is_a_gap(tmp_path: Path) -> None:
    gone = {"time": row(2, 0)["time"], "state": "unreachable", "kind": "server"}
    table = write(
        tmp_path / "t.csv", row(0, 0), row(1, 10), gone, row(3, 2, state="restarted"), row(4, 4)
    )
    summary = summarise(table, since=BEGIN)
    assert summary is not None
    assert sum(value or 0 for value in summary["models"]["m"]["rows_per_s"]) == 120.0


def test_members_of_an_ensemble_say_so_and_idle_models_are_left_out(tmp_path: Path) -> None:
    rows = []
    for second in range(3):
        rows += [row(second, second, f"m{number}") for number in range(MAX_MODELS)]
        rows += [row(second, 100 * second, "step", member_of="whole"), row(second, 7, "idle")]
    summary = summarise(write(tmp_path / "t.csv", *rows), since=BEGIN)
    assert summary is not None
    assert next(iter(summary["models"])) == "step (in whole)"
    assert len(summary["models"]) == MAX_MODELS
    assert "idle" not in summary["models"]


def test_a_long_table_becomes_short(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", *(row(second, second) for second in range(5000)))
    summary = summarise(table, since=BEGIN)
    assert summary is not None
    assert len(summary["seconds"]) == MAX_POINTS
    assert summary["models"]["m"]["rows_per_s"] == pytest.approx([10.0] * MAX_POINTS)
    assert summary["models"]["m"]["queue_ms"] == pytest.approx([2.0] * MAX_POINTS)


def test_versions_are_told_apart(tmp_path: Path) -> None:
    rows = [row(second, second, version=version) for second in (0, 1) for version in ("1", "2")]
    summary = summarise(write(tmp_path / "t.csv", *rows), since=BEGIN)
    assert summary is not None
    assert set(summary["models"]) == {"m", "m version 2"}


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert summarise(tmp_path / "none.csv", since=BEGIN) is None
    assert summarise(write(tmp_path / "t.csv"), since=BEGIN) is None
    assert summarise(write(tmp_path / "t.csv", row(0, 5), row(1, 5)), since=BEGIN) is None


def server(second: float, address: str, state: str = "ok") -> dict[str, Any]:
    return {"time": row(second, 0)["time"], "state": state, "kind": "server", "name": address}


def test_each_of_several_servers_is_described(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    # An earlier run's; that this one continues its table is no restart, and what is answered
    # between two samples is counted though the first of them was before.
    first = write(
        tmp_path / "t.csv",
        *(server(-20, "a:1"), row(-20, 0), row(-10, 1000)),
        *(server(-1, "a:2", "restarted"), row(-1, 0, state="restarted"), row(1, 40)),
        *(server(2, "", "unreachable"), server(3, "a:3", "restarted")),
        *(row(3, 2, state="restarted"), row(4, 4), row(4, 9, "step", member_of="m")),
    )
    second = write(tmp_path / "t-1.csv", server(1, "b:1"), row(1, 0), row(5, 7))
    found = (describe_server(table, since=BEGIN) for table in (first, second))
    servers = [each for each in found if each is not None]
    assert servers == [
        {"address": "a:3", "restarts": 1, "requests": 42},
        {"address": "b:1", "restarts": 0, "requests": 7},
    ]
    assert describe_server(first, since=BEGIN + timedelta(seconds=9)) is None
    assert describe_server(tmp_path / "none.csv", since=BEGIN) is None
    page = render_report(build_report(title="t", server={"version": "2"}, servers=servers))
    assert "All servers" in page
    assert "<td>b:1</td>" in page
    assert "All servers" not in render_report(build_report(title="t", servers=servers[:1]))


def test_the_report_draws_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    table = write(tmp_path / "t.csv", *(row(9 * second, second) for second in range(100)))
    page = render_report(
        build_report(title="t", throughput={"rows": 1}, monitor=summarise(table, since=BEGIN))
    )
    assert "Speed of the server" in page
    assert "Wait in the server" in page
    assert "Speed of the server" not in render_report(build_report(title="t"))
