"""What a validation decides before it runs, and what it finds in the files of predictions."""

# Over 300 lines: what is decided before a run, and what is found in its results.
from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hermes.aeriel import files
from hermes.aeriel._options import ValidationOptions
from hermes.aeriel.client import ClientStatistics
from hermes.aeriel.files import FINGERPRINT, DatasetFacts
from hermes.aeriel.metrics import (
    METRICS,
    MetricsResult,
    Pair,
    Requirement,
    check_requirements,
    check_scores,
    choose_output,
    compute_metrics,
    difference_name,
    has_labels,
    parse_metrics,
    parse_requirement,
    scalar_names,
    varies,
)
from hermes.aeriel.report import check_extra as check_report_extra
from hermes.aeriel.validation._index import INDEX, Part
from hermes.aeriel.validation._merge import TARGET
from hermes.errors import DataError, OutputError, ParameterError

# The attributes that differ from file to file of one run.
_OF_EACH = (
    "input_file",
    "input_files",
    "statistics",
    FINGERPRINT,
    "rows",
    "rows_kept",
    "not_finite_inputs",
    "not_finite_outputs",
    "started",
    "created",
    "shifts",
    "shifts_s",
    "live_time_s",
)
MOST_KNOWN = 1 << 14


@dataclass(frozen=True, kw_only=True)
class FilePredictions:
    """What a file of predictions says of itself.

    ``file`` is the input, ``path`` the file of predictions. ``rows_kept`` is how many of the rows
    it has, None for all of them. ``not_finite`` has, for ``inputs`` and ``outputs``, how many
    values of each are NaN or infinite, by name; nothing in a file that was written before they were
    counted.
    """

    file: str
    path: Path
    attributes: dict[str, Any]
    statistics: ClientStatistics
    rows: int
    rows_kept: int | None
    not_finite: dict[str, dict[str, int]]
    started: datetime
    created: datetime

    @classmethod
    def read_run(cls, predictions: Sequence[Path]) -> list[FilePredictions]:
        """Return what the files of one run say; what is the same in all of them, of the first one.

        Raises
        ------
        DataError
            As for `read`.
        """
        first, *others = predictions
        return [cls.read(first), *(cls.read(file, _OF_EACH) for file in others)]

    @classmethod
    def read(cls, file: Path, names: tuple[str, ...] | None = None) -> FilePredictions:
        """Return what a file says.

        Parameters
        ----------
        file
            The file.
        names
            The attributes to read; by default all.

        Raises
        ------
        DataError
            It cannot be read, or holds no predictions for one file.
        """
        # The merging asks, and then the report.
        stamp = files.stamp_if_there(file)
        return cls._read_once(stamp, file, names) if stamp else cls._read(file, names)

    @classmethod
    @lru_cache(maxsize=MOST_KNOWN)
    def _read_once(cls, stamp: str, file: Path, names: tuple[str, ...] | None) -> FilePredictions:
        """Read a file, once while the same stands for it."""
        del stamp
        return cls._read(file, names)

    @classmethod
    def _read(cls, file: Path, names: tuple[str, ...] | None) -> FilePredictions:
        with files.open_input(file) as opened:
            attributes = files.read_attributes(opened, names)
        if "statistics" not in attributes or FINGERPRINT not in attributes:
            problem = "holds no predictions for one file, as hermes infer and the tasks write them"
            raise DataError(file=str(file), problem=problem)
        try:
            return cls._of(file, attributes)
        except (KeyError, TypeError, ValueError) as error:
            problem = f"has attributes that hermes did not write ({error!r}); make it again"
            raise DataError(file=str(file), problem=problem) from error

    @classmethod
    def _of(cls, file: Path, attributes: dict[str, Any]) -> FilePredictions:
        kept = attributes.get("rows_kept")
        return cls(
            file=attributes.get("input_file") or ", ".join(json.loads(attributes["input_files"])),
            path=file,
            attributes=attributes,
            statistics=ClientStatistics(**json.loads(attributes["statistics"])),
            rows=int(attributes["rows"]),
            rows_kept=None if kept is None else int(kept),
            not_finite={
                side: json.loads(attributes.get(f"not_finite_{side}", "{}"))
                for side in ("inputs", "outputs")
            },
            started=datetime.fromisoformat(attributes["started"]),
            created=datetime.fromisoformat(attributes["created"]),
        )

    @property
    def input_files(self) -> tuple[Path, ...]:
        """The file that they are for; or several, each with one channel of every series."""
        several = json.loads(self.attributes.get("input_files", "[]"))
        return tuple(map(Path, several)) or (Path(self.file),)

    @property
    def part(self) -> Part:
        """The predictions as what `merge` takes."""
        return Part(
            input_files=self.input_files,
            predictions=self.path,
            rows=self.rows,
            rows_kept=self.rows_kept,
            shifts=self.shifts,
            shifts_s=tuple(json.loads(self.attributes.get("shifts_s", "[]"))),
            live_time_s=self.attributes.get("live_time_s"),
        )

    @property
    def shifts(self) -> tuple[int, ...]:
        """By how many samples each channel is later; empty where none is."""
        return tuple(json.loads(self.attributes.get("shifts", "[]")))

    @property
    def fingerprint(self) -> str:
        """What stands for everything that they depend on."""
        return str(self.attributes[FINGERPRINT])


def check_writable(directory: Path) -> None:
    """Make a directory, and check that it takes files.

    Raises
    ------
    OutputError
        When it does not.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        problem = f"the output directory cannot be written: {error.strerror or error}"
        raise OutputError(str(directory), problem) from error


def choose_metrics(
    options: ValidationOptions, target: DatasetFacts | None
) -> tuple[tuple[str, ...], tuple[Requirement, ...]]:
    """Return the metrics to compute and the requirements on them.

    Parameters
    ----------
    options
        What was asked for; without any metrics, what suits the target. Those that are required are
        added. With a baseline, requirements may be on differences.
    target
        The dataset with the targets, where there is one.

    Raises
    ------
    ParameterError
        One is unknown, or there is no target for it.
    MissingExtraError
        Something for the report is not installed.
    """
    check_scores(options.scores)
    requirements = tuple(map(parse_requirement, options.require))
    check_report_extra()
    if target is None:
        if options.metrics or requirements or options.baseline:
            problem = "is not given, but metrics need a dataset with targets in each file"
            raise ParameterError("target", problem)
        return (), ()
    names = options.metrics or _default_metrics(target.dtype)
    known = scalar_names(names)
    required = [each.scalar for each in requirements if each.scalar not in known]
    names = parse_metrics([*names, *required])
    computed = scalar_names(names)
    differences = [difference_name(name) for name in computed]
    for requirement in requirements:
        if requirement.metric in differences and not options.baseline:
            problem = f"{str(requirement)!r} is on a difference from a baseline; give baseline"
            raise ParameterError("require", f"{problem}, the output directory of a Validate")
    check_requirements(requirements, [*computed, *(differences if options.baseline else ())])
    return names, requirements


def output_in(merged: h5py.File, wanted: str, *, is_baseline: bool = False) -> h5py.Dataset:
    """Return an output in a merged file.

    Parameters
    ----------
    merged
        The file.
    wanted
        The name of the output; empty for the only one.
    is_baseline
        Whether the only one may have another name.

    Raises
    ------
    ParameterError
        There is no such output, it is of varying length, or none is named and there are several.
    """
    outputs = {files.output_name(name): name for name in merged if name not in (INDEX, TARGET)}
    if is_baseline and len(outputs) == 1:
        wanted = ""
    name = choose_output(list(outputs), wanted)
    if isinstance(merged[outputs[name]], h5py.Group):  # which only the server could tell before
        raise varies(name)
    return merged[outputs[name]]


def measure(
    merged_file: Path,
    metrics: Sequence[str],
    options: ValidationOptions,
    *,
    optional: Collection[str] = (),
) -> MetricsResult:
    """Return the metrics of an output in a merged file against the targets beside it.

    Parameters
    ----------
    merged_file, metrics
        What to compute, and from what.
    options
        Which output, what its scores are, and the tolerances.
    optional
        The metrics that nobody asked for: those that want scores are left out where the output
        has labels.

    Raises
    ------
    ParameterError
        As for `output_in`.
    DataError
        For predictions or targets that a metric cannot be computed from.
    """
    with h5py.File(merged_file, "r") as merged:
        predictions, targets = output_in(merged, options.output_name), merged[TARGET]
        of_scores = [name for name in optional if METRICS[name].needs == "scores"]
        if of_scores:
            rest = [name for name in metrics if name not in of_scores]
            of_labels = [METRICS[name] for name in optional if METRICS[name].needs == "labels"]
            pair = Pair.checked(of_labels, predictions, targets)
            metrics = rest if has_labels(pair, check_scores(options.scores)) else metrics
        return compute_metrics(
            metrics,
            predictions,
            targets,
            scores=options.scores,
            rtol=options.rtol,
            atol=options.atol,
            offsets=merged[f"{INDEX}/offsets"][:].tolist(),
        )


def describe_inputs(done: Sequence[FilePredictions]) -> list[dict[str, Any]]:
    """Return what the report says of each file, whose time slides count together."""
    described: dict[str, dict[str, Any]] = {}
    for part in done:
        of_file = described.setdefault(part.file, {"file": part.file, "predictions": part.path})
        for name, count in _counts(part).items():
            of_file[name] = of_file.get(name, 0) + count
    return list(described.values())


def describe_slides(done: Sequence[FilePredictions]) -> list[dict[str, Any]]:
    """Return what the report says of each time slide; nothing where there is but one."""
    described: dict[tuple[int, ...], dict[str, Any]] = {}
    for part in done:
        shifts = {"slide": len(described), "shifts": part.shifts, "shifts_s": part.part.shifts_s}
        of_slide = described.setdefault(part.shifts, shifts)
        counts = {**part.attributes, **_counts(part)}
        for name in ("rows", "rows_kept", "live_time_s"):
            if name in counts:
                of_slide[name] = of_slide.get(name, 0) + counts[name]
    return list(described.values()) if len(described) > 1 else []


def _counts(part: FilePredictions) -> dict[str, int]:
    kept = {} if part.rows_kept is None else {"rows_kept": part.rows_kept}
    not_finite = {
        f"not_finite_{side}": sum(part.not_finite[side].values()) for side in part.not_finite
    }
    return {"rows": part.rows, **kept, **not_finite}


def finite_warnings(done: Sequence[FilePredictions]) -> list[str]:
    """Return a sentence for each input and output that has NaN or infinite values."""
    found = []
    for side in ("inputs", "outputs"):
        names = dict.fromkeys(name for part in done for name in part.not_finite[side])
        for name in names:
            counts: Counter[str] = Counter()
            for part in done:
                counts[part.file] += part.not_finite[side].get(name, 0)
            files = [file for file, count in counts.items() if count]
            if files:
                n = sum(counts.values())
                values = "1 value is" if n == 1 else f"{n:,} values are"
                others = f" and {len(files) - 1} more files" if len(files) > 2 else ""
                others = f" and {files[1]}" if len(files) == 2 else others
                found.append(f"{side[:-1]} {name}: {values} NaN or infinite, in {files[0]}{others}")
    return found


def throughput(done: Sequence[FilePredictions]) -> dict[str, Any]:
    """Return how fast the files went through, all together and one by one, for a report."""
    total = ClientStatistics.sum(part.statistics for part in done)
    seconds = _busy_seconds([(part.started.timestamp(), part.created.timestamp()) for part in done])
    return {
        **_numbers(total, seconds),
        "files": [
            {"file": part.file, **_numbers(part.statistics, part.statistics.seconds)}
            for part in done
        ],
    }


def _default_metrics(target: np.dtype[Any]) -> tuple[str, ...]:
    if target.kind in "iub":
        return "accuracy", "log_loss", "confusion_matrix"
    return "mse", "rmse", "mae", "bias", "r2", "max_absolute_error"


def _numbers(statistics: ClientStatistics, seconds: float) -> dict[str, Any]:
    return {
        "rows": statistics.rows,
        "seconds": seconds,
        "rows_per_s": statistics.rows / seconds if seconds else 0.0,
        "megabytes_per_s": statistics.megabytes / seconds if seconds else 0.0,
        "requests": statistics.requests,
        "retries": statistics.retries,
        "failures": statistics.failures,
        "latency_ms": {
            "p50": statistics.latency_ms(0.5),
            "p90": statistics.latency_ms(0.9),
            "p99": statistics.latency_ms(0.99),
        },
    }


def _busy_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """Return how long at least one of the spans lasted: files are streamed side by side."""
    busy, until = 0.0, 0.0
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy
