"""The lines of a display for the files that are under way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

MOST_LINES = 12
INDENT = "  "
LEAST_LABEL = 12


@dataclass
class File:
    """A file of a run, and how far it is."""

    label: str
    total: int | None = None
    done: int = 0
    is_done: bool = False
    began: float = 0.0


def files_table(files: Collection[File], width: int, height: int) -> Table:
    """Return a line for each file, those that began first first, as many as there is room for."""
    table = Table.grid(padding=(0, 1), expand=True)
    longest = max(len(file.label) for file in files)
    label_width = max(LEAST_LABEL, min(longest, width // 2))
    table.add_column(width=label_width + len(INDENT), no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    room = max(1, min(MOST_LINES, height))
    for file in sorted(files, key=lambda file: file.began)[:room]:
        total = file.total or 0
        bar = ProgressBar(total=max(total, 1), completed=file.done)
        label = f"{INDENT}{_shortened(file.label, label_width)}"
        table.add_row(label, bar, f"{file.done:,} of {total:,}")
    if len(files) > room:
        table.add_row(f"{INDENT}and {len(files) - room} more")
    return table


def one_line(text: str, style: str = "") -> Text:
    """Return a line that is cut at the width of the display."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _shortened(label: str, width: int) -> str:
    """Return a name without its middle: the names of files differ at their ends."""
    if len(label) <= width:
        return label
    end = 2 * width // 3
    return f"{label[: width - end - 1]}…{label[-end:]}"
