"""The directory of a run of batch jobs, on the shared file system: it has every file of the run."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hermes._files import write_whole
from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.files import NO_HOOKS, Request, fingerprint_of
from hermes.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What a job has done so far.

    Parameters
    ----------
    rows
        Rows that it has written.
    failures
        Why it could not do a file, by the path of the output; to do it again would not help.
    """

    rows: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class RunDirectory:
    """The directory of one run.

    Parameters
    ----------
    path
        Its name is that of the run, by which its jobs are found.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.beacon = path / "beacon"
        # Left by the first job that finds the beacon standing still, for those in the queue.
        self.tombstone = path / "tombstone"
        self.endpoint = path / "endpoint.json"
        self.server = path / "server.json"
        self.reaper_log = path / "reaper.log"

    @classmethod
    def create(cls, parent: Path) -> Self:
        """Make the directory of a new run, for this user's eyes only.

        What runs beside it have left whose drivers died is removed.

        Raises
        ------
        ParameterError
            It cannot be made.
        """
        for tombstone in parent.glob("hermes-*/tombstone"):
            cls(tombstone.parent).remove(keep_logs=False)
        run = cls(parent.absolute() / f"hermes-{secrets.token_hex(6)}")
        try:
            run.path.mkdir(parents=True, mode=0o700)
        except OSError as error:
            problem = f"{run.path} cannot be made: {error.strerror}"
            raise ParameterError("job_directory", problem) from error
        return run

    @property
    def name(self) -> str:
        """The unique name of the run."""
        return self.path.name

    def bury(self) -> None:
        """Note that the driver is dead, for the jobs in the queue and for later runs."""
        with suppress(OSError):  # it may be gone already
            self.tombstone.touch()
            self.endpoint.unlink(missing_ok=True)

    def submission(self, name: str) -> SubmissionDirectory:
        """Return the directory of one submission."""
        return SubmissionDirectory(self.path / name)

    def finish(self) -> None:
        """Remove the directory, and the logs of earlier runs that failed: all is done now."""
        for other in self.path.parent.glob("hermes-*"):
            ended = RunDirectory(other)
            if other != self.path and not ended.beacon.exists():
                ended.remove(keep_logs=False)
        self.remove(keep_logs=False)

    def remove(self, *, keep_logs: bool) -> None:
        """Remove what the run has written: all of it, or all but the logs of its jobs."""
        if not keep_logs:
            shutil.rmtree(self.path, ignore_errors=True)
        # What is in a directory comes before it, and one that still has logs is left.
        for path in sorted(self.path.rglob("*"), reverse=True):
            with suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                elif path.suffix != ".log" or not path.stat().st_size:
                    path.unlink()
        for path in (self.path, self.path.parent):
            with suppress(OSError):  # logs, or other runs, are in it
                path.rmdir()


class SubmissionDirectory:
    """The files of the jobs that are submitted together.

    Parameters
    ----------
    path
        The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, number: int) -> Path:
        """Return the file that takes the output of a job."""
        return self.path / f"{number}.log"

    def _requests(self, number: int) -> Path:
        return self.path / f"{number}.requests.json"

    def _status(self, number: int) -> Path:
        return self.path / f"{number}.status.json"

    def write_requests(self, number: int, requests: list[Request]) -> None:
        """Say what a job is to do; hooks, which are Python, stay behind."""
        facts = [asdict(replace(request, hooks=NO_HOOKS)) for request in requests]
        text = json.dumps(facts, default=_as_json)
        write_whole(self._requests(number), text, mode=0o600, durable=False)

    def read_requests(self, number: int) -> list[Request]:
        """Return what a job is to do."""
        return [_request(**facts) for facts in json.loads(self._requests(number).read_text())]

    def write_status(self, number: int, status: JobStatus) -> None:
        """Say what a job has done."""
        write_whole(self._status(number), json.dumps(asdict(status)), mode=0o600, durable=False)

    def read_status(self, number: int) -> JobStatus:
        """Return what a job has said last that it has done."""
        try:
            return JobStatus(**json.loads(self._status(number).read_text()))
        except FileNotFoundError:
            return JobStatus()


def is_done(request: Request) -> bool:
    """Tell whether the output of a request is there, as a job on any host has left it."""
    refresh(request.output_file.parent)
    return fingerprint_of(request.output_file) == request.fingerprint


def refresh(directory: Path) -> None:
    """Have NFS look at a directory anew: it remembers for a while which files were not there."""
    with suppress(OSError):
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))


def _as_json(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else str(value)


def _request(
    input_files: list[str], output_file: str, options: dict[str, Any], hooks: object, **facts: Any
) -> Request:
    del hooks  # there are none
    values: dict[str, Any] = {name: _as_tuples(value) for name, value in options.items()}
    return Request(
        input_files=tuple(map(Path, input_files)),
        output_file=Path(output_file),
        options=InferenceOptions(**values),
        **facts,
    )


def _as_tuples(value: Any) -> Any:
    """Return a value of JSON as an option has it."""
    if isinstance(value, dict):
        return {name: _as_tuples(each) for name, each in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
