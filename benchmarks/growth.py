"""How the cost of `Validate` grows with the number of files, and with that of rows.

    python benchmarks/growth.py --plot growth.png --output growth.json
    python benchmarks/growth.py --files 10000 --no-rows

Each point is a directory of its own: `Validate` with three workers, then the same command, which
has nothing to do. A straight line is fitted to the seconds on the clock and of the processors; the
table says how far the points lie from it. CPU seconds are those of a command and of the processes
that it waits for, and not of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pipelines

FEW_FILES = 8


def main() -> None:
    options = parse()
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="hermes-growth-", dir=options.directory) as scratch:
        for n_files in options.files:
            show(found, "files", n_files, measure(Path(scratch), n_files, options.small))
        for n_rows in options.rows if not options.no_rows else ():
            point = measure(Path(scratch), FEW_FILES, n_rows // FEW_FILES)
            show(found, "rows", n_rows, point)
    for kind, points in found.items():
        fit(kind, points)
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end")
    if options.output:
        Path(options.output).write_text(json.dumps(found, indent=2))
    if options.plot:
        plot(found, options.plot)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--small", type=int, default=16, help="rows of each of these files")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000, 8_000_000],
        help=f"rows of {FEW_FILES} files together",
    )  # fmt: skip
    parser.add_argument("--no-rows", action="store_true")
    parser.add_argument("--directory", help="where files are written; the disk counts")
    parser.add_argument("--output", help="a JSON file with all numbers")
    parser.add_argument("--plot", help="an image file")
    return parser.parse_args()


def measure(scratch: Path, n_files: int, n_rows: int) -> dict[str, float]:
    """Return the seconds of a first run and of a second one, on the clock and of the processors."""
    work = scratch / f"{n_files}-{n_rows}"
    _, files = pipelines.write_inputs(work, n_files, n_rows)
    command = pipelines.validate(3)(work, "", files)
    point: dict[str, float] = {}
    for name in ("first", "again"):
        point[name], point[f"{name} cpu"] = pipelines.run(command)
    shutil.rmtree(work)
    return point


def show(found, kind: str, n: int, point: dict[str, float]) -> None:
    found.setdefault(kind, []).append({"n": n, **point})
    numbers = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in point.items())
    print(f"{n} {kind}: {numbers}", flush=True)


def fit(kind: str, points: list[dict[str, float]]) -> None:
    """Print the constants of a line through points, and the farthest of them from it."""
    if len(points) < 2:
        return
    n = np.array([point["n"] for point in points])
    for name in (name for name in points[0] if name != "n"):
        seconds = np.array([point[name] for point in points])
        slope, start = np.polyfit(n, seconds, 1)
        off = np.abs(seconds / (start + slope * n) - 1).max()
        print(
            f"{name:>10}: {start:.2f} s + {1e6 * slope:.3g} us for each of the {kind}; "
            f"the points are at most {100 * off:.0f} % off"
        )


def plot(found, file: str) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axes, (kind, points) in zip(panels[0], found.items(), strict=True):
        n = [point["n"] for point in points]
        for name in (name for name in points[0] if name != "n"):
            axes.plot(n, [point[name] for point in points], "o-", label=name)
        axes.set(xlabel=kind, ylabel="s", xlim=(0, None), ylim=(0, None))
        axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
