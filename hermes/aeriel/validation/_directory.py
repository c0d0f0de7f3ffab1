"""The output directory of a validation, and what stands for the report in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hermes.aeriel._options import ValidationOptions
from hermes.aeriel.files import fingerprint, fingerprint_of


@dataclass(frozen=True)
class ValidationDirectory:
    """The files that a validation writes.

    Parameters
    ----------
    path
        The directory.
    """

    path: Path

    @property
    def merged(self) -> Path:
        """The predictions of all files."""
        return self.path / "merged.h5"

    @property
    def report_json(self) -> Path:
        """The report for programs."""
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @property
    def jobs(self) -> Path:
        """The directories of runs of batch jobs, while they last."""
        return self.path / "jobs"

    def is_reported(
        self, fingerprint: Callable[[], str], request: Callable[[], str] | None = None
    ) -> bool:
        """Tell whether there is a report with a fingerprint, whose requirements were met.

        Parameters
        ----------
        fingerprint
            Returns what `report_fingerprint` returns.
        request
            Returns what `request_fingerprint` returns. Where it is that of the report, it decides,
            and no input is opened to find the other.
        """
        try:
            report = json.loads(self.report_json.read_text())
        except (OSError, json.JSONDecodeError):
            return False
        is_whole = self.report_html.exists() and report["verdict"] != "failed"
        if not is_whole:
            return False
        is_of_request = request is not None and report.get("request") == request()
        return is_of_request or bool(report.get("fingerprint") == fingerprint())


def report_fingerprint(
    merged: str, options: ValidationOptions, baseline: Path | None = None
) -> str:
    """Return what stands for everything that a report depends on.

    Parameters
    ----------
    merged
        The fingerprint of the merged file.
    options
        What the predictions are measured by.
    baseline
        The merged file to compare with, if any.
    """
    compared = {} if baseline is None else {"baseline": fingerprint_of(baseline)}
    return fingerprint(merged=merged, **options.facts(), **compared)


def request_fingerprint(
    stamps: Sequence[Sequence[str]], options: ValidationOptions, **facts: Any
) -> str:
    """Return what stands for a request and its inputs, without a look into them.

    What is in the inputs, and what it makes of options that were left out, depends on nothing else
    where the inputs reach no other files.

    Parameters
    ----------
    stamps
        What `own_stamp` returned for the files of each input.
    options
        What the predictions are measured by.
    facts
        Everything else that counts: how the inputs are read, the model, hooks, a baseline.
    """
    return fingerprint(
        stamps=stamps, hermes=version("hermes-aeriel"), **options.facts(), request=facts
    )
