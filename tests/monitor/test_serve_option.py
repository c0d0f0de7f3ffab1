"""``hermes serve --monitor`` keeps a monitor for as long as its server."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import Endpoint


def test_the_table_is_there_when_the_server_has_gone(repository: Path, tmp_path: Path) -> None:
    endpoint, table = tmp_path / "endpoint.json", tmp_path / "logs" / "server.csv"
    command = [sys.executable, "-m", "hermes", "serve", str(repository), "--ports=auto"]
    options = [f"--endpoint-file={endpoint}", f"--monitor={table}"]
    with subprocess.Popen([*command, *options]) as process:
        deadline = time.monotonic() + 60
        while not endpoint.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with InferenceClient(Endpoint.read(endpoint), "double"):
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["name"] for row in rows if row["kind"] == "model"} >= {"double", "quadruple"}
    assert rows[-1]["state"] == "ok"


def test_a_table_that_cannot_be_written_is_an_error(repository: Path, tmp_path: Path) -> None:
    taken = tmp_path / "mine.csv"
    taken.write_text("something else\n")
    command = [sys.executable, "-m", "hermes", "serve", str(repository), "--ports=auto"]
    done = subprocess.run(
        [*command, f"--monitor={taken}"], stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "is not the table of a monitor" in done.stderr
    assert taken.read_text() == "something else\n"
