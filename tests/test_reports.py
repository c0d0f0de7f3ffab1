"""What the processes of a run report reaches the one that shows it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from hermes._closing import short_path
from hermes._reports import Reports, is_terminal

# In a process of its own: pytest's has threads, beside which Python 3.12 warns of a fork.
MANY_WRITERS = """
import os, signal, time
from hermes._reports import Reports

reports = Reports()
writers = []
for number in range(8):
    if (pid := os.fork()) == 0:
        for count in range(100000 if number == 0 else 500):
            reports.send("line", text=str(number) * (1 + count % 997))
        os._exit(0)
    writers.append(pid)
time.sleep(0.05)
os.kill(writers[0], signal.SIGKILL)
found = []
deadline = time.monotonic() + 60
while sum(report["text"][0] != "0" for report in found) < 7 * 500:
    assert time.monotonic() < deadline, len(found)
    found += reports.receive(0.1)
for report in found:
    assert set(report) == {"kind", "text"} and len(set(report["text"])) == 1, report
for pid in writers:
    os.waitpid(pid, 0)
print(len(found))
"""


def test_reports_of_many_processes_stay_whole_also_of_one_that_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_WRITERS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 7 * 500


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    reports = Reports()
    began = time.monotonic()
    while time.monotonic() - began < 2.5:
        reports.send("line", text="x" * 900)
    there = reports.receive(0.0)
    assert Counter(report["kind"] for report in there) == {"line": len(there)}
    reports.close()


def test_a_report_that_is_too_long_is_left_out() -> None:
    reports = Reports()
    reports.send("line", text="x" * 10_000)
    reports.send("line", text="short")
    assert [report["text"] for report in reports.receive(1.0)] == ["short"]
    reports.close()


def test_a_path_is_whole_where_the_current_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert short_path(tmp_path / "a") == "../a"
    (tmp_path / "gone").rmdir()
    assert short_path(tmp_path / "a") == str(tmp_path / "a")


def test_there_is_no_terminal_where_standard_error_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_terminal()
