"""The lines that a run ends with: verdict, requirements, report, predictions, log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MOST_METRICS = 6


def closing_lines(output_dir: Path, log_file: Path | None = None) -> list[str]:
    """Return what a person wants to know at the end of a run, a line each.

    Parameters
    ----------
    output_dir
        The run's output directory. Without a report in it, the first three lines are left out.
    log_file
        Luigi's log, where it is a file; else the last line names the server's, if there is one.
    """
    facts: dict[str, str] = {}
    try:
        report = json.loads((output_dir / "report.json").read_text())
    except (OSError, ValueError):
        pass
    else:
        facts["verdict"] = _verdict(report)
        texts = [each["text"] for each in report.get("requirements", [])]
        facts["requirements"] = "; ".join(texts) or "none"
        facts["report"] = short_path(output_dir / "report.html")
    facts["predictions"] = short_path(output_dir / "merged.h5")
    if (output_dir / "predictions").is_dir():
        facts["predictions"] += f", by file in {short_path(output_dir / 'predictions')}"
    log = log_file or output_dir / "logs" / "triton.log"
    if log.exists():
        facts["log"] = short_path(log)
    return [f"{name:14}{text}" for name, text in facts.items()]


def short_path(path: Path) -> str:
    """Return a path as seen from the current directory, where that is shorter."""
    try:
        return min(str(path), os.path.relpath(path), key=len)
    except FileNotFoundError:  # the current directory was removed
        return str(path)


def _verdict(report: dict[str, Any]) -> str:
    metrics = report.get("metrics", {})
    numbers = [f"{name} {_number(value)}" for name, value in metrics.items()]
    if len(numbers) > MOST_METRICS:
        numbers[MOST_METRICS:] = [f"and {len(numbers) - MOST_METRICS} more in the report"]
    verdict: str = report["verdict"]
    return f"{verdict}: {', '.join(numbers)}" if numbers else verdict


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
