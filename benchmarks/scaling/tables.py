"""The tables of docs/scaling.md, and their places in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.scaling.calibrate import CROWDED
from benchmarks.scaling.compare import Comparison
from benchmarks.scaling.model import Costs

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
COMPARISON_TITLES = ("", "servers", "clients", "bound by", "predicted", "measured", "difference")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(map(line, [titles, ["---"] * len(titles), *rows]))


def line(cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def constants(costs: Mapping[str, Costs]) -> str:
    """Return the table of what the code takes."""
    names = {
        "shm": "shared memory",
        CROWDED: "shared memory, crowded cores",
        "http": "HTTP",
        "grpc": "GRPC with mutual TLS",
    }
    kept = [(names[name], each) for name, each in costs.items()]
    rows = [
        ("client, a request", [f"{1e3 * each.client_s_per_request:.2f} ms" for _, each in kept]),
        ("client, a MB", [f"{1e9 * each.client_s_per_byte:.2f} ms" for _, each in kept]),
        ("server, a request", [f"{1e3 * each.server_s_per_request:.2f} ms" for _, each in kept]),
        ("server, a MB", [f"{1e9 * each.server_s_per_byte:.2f} ms" for _, each in kept]),
        ("waiting, a request", [f"{1e3 * each.wait_s:.2f} ms" for _, each in kept]),
        ("a file", [f"{1e3 * each.file_s:.1f} ms" for _, each in kept]),
        ("a command or job", [f"{each.job_s:.1f} s" for _, each in kept]),
        ("a server", [f"{each.server_start_s:.1f} s" for _, each in kept]),
    ]
    return table(["", *(name for name, _ in kept)], [(what, *cells) for what, cells in rows])


def comparison(row: Comparison) -> list[str]:
    """Return the cells of a comparison."""
    digits = ".1f" if row.unit == "s" else ".0f"
    return [
        row.what,
        str(row.servers),
        str(row.clients),
        row.bound_by,
        f"{row.predicted:{digits}} {row.unit}",
        f"{row.measured:{digits}} {row.unit}",
        f"{100 * row.difference:+.0f} %",
    ]


def update_page(tables: Mapping[str, str]) -> None:
    """Put tables in the places of the page that have their names."""
    text = PAGE.read_text()
    for name, content in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, after = re.split(f"{begin}.*?({end})", text, flags=re.DOTALL)
        text = f"{before}{begin}\n\n{content}\n\n{found}{after}"
    PAGE.write_text(text)
