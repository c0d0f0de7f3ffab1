"""What a search has measured as a table, as a configuration and as a plot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hermes._files import write_whole
from hermes.aeriel.tuning._measure import Measurement
from hermes.aeriel.tuning._settings import Settings
from hermes.aeriel.tuning._tune import Tuning
from hermes.errors import MissingExtraError, OutputError

SETTINGS = ("instances", "threads", "batcher", "batch", "in flight")
HEADS = (*SETTINGS, "rows/s", "memory, MiB", "GPU, MiB")
MIB = 1 << 20


def check_extra() -> None:
    """Check, before anything runs, that what draws the plot is installed.

    Raises
    ------
    MissingExtraError
        When matplotlib is not.
    """
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415 (an extra)
    except ImportError as error:
        raise MissingExtraError(package="matplotlib", extra="tune") from error


def row(measurement: Measurement) -> list[str]:
    """Return the texts of a measurement, as `HEADS` names them."""
    gpu = measurement.gpu_memory_bytes
    return [
        *_setting_texts(measurement.settings),
        *(
            ("failed", "", "")
            if measurement.problem
            else (
                f"{measurement.rows_per_s:,.0f}",
                f"{measurement.memory_bytes / MIB:,.0f}",
                "" if gpu is None else f"{gpu / MIB:,.0f}",
            )
        ),
    ]


def table(tuning: Tuning) -> str:
    """Return what was measured as a table of text, the fastest first."""
    marks = {id(tuning.best): "fastest", id(tuning.now): "now"}
    ordered = sorted(tuning.measurements, key=lambda each: -each.rows_per_s)
    rows = [[*HEADS, ""], *([*row(each), marks.get(id(each), "")] for each in ordered)]
    shown = [n for n in range(len(rows[0])) if any(cells[n] for cells in rows[1:])]
    widths = {n: max(len(cells[n]) for cells in rows) for n in shown}
    lines = ("  ".join(cells[n].rjust(widths[n]) for n in shown) for cells in rows)
    return "\n".join(line.rstrip() for line in lines)


def free_name(directory: Path, name: str, suffix: str) -> Path:
    """Return a path in a directory at which there is nothing yet.

    Raises
    ------
    OutputError
        The directory cannot be written.
    """
    if not os.access(directory, os.W_OK):
        problem = "cannot be written; name another directory with --output-dir"
        raise OutputError(str(directory), problem)
    number, path = 1, directory / f"{name}{suffix}"
    while path.exists():
        number += 1
        path = directory / f"{name}-{number}{suffix}"
    return path


def write_config(path: Path, tuning: Tuning) -> None:
    """Write the configuration with the fastest settings, and how fast they are.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    settings = tuning.best.settings
    head = (
        f"# Written by hermes tune: {tuning.gain:.2f} times the rows per second of config.pbtxt,\n"
        f"# on one machine and with its data, with {client_options(settings)}.\n"
    )
    write_whole(path, head + tuning.model.text(settings.model))


def draw(path: Path, tuning: Tuning) -> None:
    """Draw rows per second and memory of every measurement against each setting.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.
    """
    check_extra()
    from matplotlib import style  # noqa: PLC0415 (an extra)
    from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)

    measured = [each for each in tuning.measurements if not each.problem]
    columns = [
        (name, [_setting_texts(each.settings)[number] for each in measured])
        for number, name in enumerate(SETTINGS)
    ]
    columns = [(name, texts) for name, texts in columns if len(set(texts)) > 1] or columns[-1:]
    with style.context("default"):  # and nothing of the user's matplotlibrc
        figure = Figure(figsize=(3 * len(columns), 5.5), layout="constrained")
        grid: Any = figure.subplots(2, len(columns), squeeze=False, sharex="col", sharey="row")
        values = (
            ("rows/s", [each.rows_per_s for each in measured]),
            ("memory, MiB", [each.memory_bytes / MIB for each in measured]),
        )
        best = measured.index(tuning.best)
        for (name, texts), axes_of in zip(columns, grid.T, strict=True):
            ticks = sorted(set(texts), key=_number)
            places = [ticks.index(text) for text in texts]
            for axes, (label, numbers) in zip(axes_of, values, strict=True):
                axes.plot(places, numbers, "o", color="#0072b2", alpha=0.5, label="measured")
                for index, colour, what in ((0, "#e69f00", "now"), (best, "#009e73", "fastest")):
                    axes.plot(places[index], numbers[index], "o", color=colour, label=what)
                axes.set_ylim(0, 1.1 * max(numbers))
                axes.grid(linewidth=0.4)
                if axes in grid[:, 0]:
                    axes.set_ylabel(label)
            axes_of[1].set_xticks(range(len(ticks)), ticks)
            axes_of[1].set_xlabel(name)
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.savefig(path, dpi=120)


def client_options(settings: Settings) -> str:
    """Return the settings of the client, as options of ``hermes infer`` and of the tasks."""
    return f"--batch-size {settings.batch_size} --max-in-flight {settings.in_flight}"


def _setting_texts(settings: Settings) -> list[str]:
    model = settings.model
    batcher = "off" if model.preferred is None else "any"
    return [
        str(model.instances),
        str(model.threads or "default"),
        ",".join(map(str, model.preferred)) if model.preferred else batcher,
        str(settings.batch_size),
        str(settings.in_flight),
    ]


def _number(text: str) -> tuple[int, str]:
    first = text.partition(",")[0]
    return (int(first) if first.isdigit() else -1, text)
