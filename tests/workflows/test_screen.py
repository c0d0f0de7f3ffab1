"""What stands on the screen of a terminal, wide and narrow, on a light and a dark background."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pyte
import pytest
from rich.console import Console

from hermes._directory import Status
from hermes._display import PHASES, Display
from hermes._reports import Reports
from hermes.aeriel.supervise import ServerState
from tests.terminal import Terminal
from tests.workflows.conftest import CONFIG, write_model
from tests.workflows.test_terminal import SLOW, InTerminal, given, in_terminal

__all__ = ["given", "in_terminal"]

HEIGHT = 30
LONG = "a-rather-long-name-of-a-night-at-the-telescope"


@pytest.fixture
def reports() -> Iterator[Reports]:
    """Where the processes of a run report."""
    with closing(Reports()) as made:
        yield made


def screen_of(terminal: Terminal, width: int) -> list[str]:
    """Return the lines that stand on the screen now, without empty ones."""
    screen = pyte.Screen(width, HEIGHT)
    pyte.Stream(screen).feed(terminal.written.replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display if line.strip()]


def wait_for_screen(
    terminal: Terminal, width: int, is_there: Callable[[list[str]], object], within_s: float = 90.0
) -> list[str]:
    deadline = time.monotonic() + within_s
    while not is_there(lines := screen_of(terminal, width)):
        assert time.monotonic() < deadline, lines
        assert terminal.process.poll() is None, lines
        time.sleep(0.05)
    return lines


def is_one_display(lines: list[str], width: int) -> bool:
    """Tell whether the lines are those of one display, whole, below what was said meanwhile."""
    said = lines[: lines.index("Validate double")]
    assert not said or said[0].startswith(("warning: ", "hermes: ")), said
    shown = lines[len(said) :]
    _, counts, bar, server, *files = shown
    wanted = [
        re.match(r"\d of 3 files · \d+ of 84 rows", counts),
        set(bar) <= set("━╸╺ "),
        server.startswith("server "),
        all(re.match(r"  \S*-\d\.h5 [━╸╺ ]+ \d+ of \d+$", line) for line in files),
        all(len(line) < width - 2 for line in shown),  # what the terminal echoes fits behind it
    ]
    return all(wanted)


def test_a_narrow_screen_through_a_crash_and_an_interrupt(
    in_terminal: InTerminal, given: list[str], data: Path, tmp_path: Path, state_home: Path
) -> None:
    for number, file in enumerate(sorted(data.iterdir())):
        shutil.move(file, data / f"{LONG}-{number}.h5")
    write_model(tmp_path / "slow", "double", CONFIG, SLOW)
    slow = [f"--model-repository={tmp_path / 'slow'}", *given[1:], "--batch-size=1"]
    width = 60
    terminal = in_terminal(*slow, "--workers=2", COLUMNS=str(width))
    lines = wait_for_screen(terminal, width, lambda lines: len(lines) > 4)
    assert is_one_display(lines, width), lines
    # Their names differ at the end alone.
    assert len({line.split()[0] for line in lines[4:]}) == len(lines) - 4

    (state,) = ServerState.all(state_home)
    for process in psutil.process_iter(["cmdline"]):
        if f"--id={state.server_id}" in (process.info["cmdline"] or ()):
            process.kill()
    again = "server is ready (started again once)"
    lines = wait_for_screen(terminal, width, lambda lines: again in lines)
    assert is_one_display(lines, width), lines

    terminal.interrupt()
    terminal.end()
    left = " ".join(screen_of(terminal, width))
    assert re.fullmatch(
        # The client may not have found the server again yet, which it has warned of.
        r"(warning: .*)?"
        r"hermes: interrupted: \d of 3 files are done, and \d under way are stopped; the server "
        r"stops too\. The same command goes on where this one stopped\.",
        left,
    )


def test_nothing_of_the_display_is_left_at_the_end(
    in_terminal: InTerminal, given: list[str]
) -> None:
    terminal = in_terminal(*given, "--workers=2")
    last = terminal.end()
    assert screen_of(terminal, 100) == last
    assert [line.split()[0] for line in last] == [
        *("verdict", "requirements", "report", "predictions", "log")
    ]


@pytest.mark.parametrize("phase", ["starting", "waiting", "ready", "restarting", "stopping"])
def test_every_colour_is_seen_on_white_and_on_black(phase: str, reports: Reports) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=HEIGHT)
    status = Status(phase=phase, gpus=("0",))
    display = Display("infer", reports, lambda: status, console)
    display.expect({"a": ("a.h5", 10), "b": ("b.h5", 10)})
    display._take({"kind": "rows", "name": "a", "done": 4, "total": 10})
    display._look_at_server()
    segments = [part for line in console.render_lines(display._render()) for part in line]
    colours = {
        part.style.color.name
        for part in segments
        if part.style and part.style.color and part.text.strip(" ━╸╺")
    }
    # Those that the themes of terminals, light and dark, have readable; a bar may be fainter.
    assert colours <= {"red", "green", "magenta"}
    assert any(f"server {PHASES[phase]}" in part.text for part in segments)


def test_a_name_that_is_too_long_keeps_its_end(reports: Reports) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=HEIGHT)
    display = Display("infer", reports, None, console)
    display.expect({"a": (f"{LONG}-07.h5", 10), "b": ("b.h5", 10)})
    for name in "ab":
        display._take({"kind": "rows", "name": name, "done": 4, "total": 10})
    with console.capture() as captured:
        console.print(display._render())
    *_, long, short = re.sub(r"\x1b\[[0-9;]*m", "", captured.get()).splitlines()
    assert long.split()[0].endswith("…night-at-the-telescope-07.h5"[-18:])
    assert short.split()[0] == "b.h5"
    assert len(long) <= 57
