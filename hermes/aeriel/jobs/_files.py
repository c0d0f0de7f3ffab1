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
from hermes._processes import ProcessIdentity
from hermes.aeriel import files
from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.endpoint import Endpoint
from hermes.errors import ParameterError, ProcError


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job is to do.

    Parameters
    ----------
    requests
        The files.
    server
        The number of the server that the job is to use, as long as that is ready.
    """

    requests: tuple[files.Request, ...]
    server: int


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
        sweep_runs(parent)
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

    def server(self, number: int) -> Path:
        """Return the file that says what a server is to be; the server ends when it is removed."""
        return self.path / f"server-{number}.json"

    def has_work_for(self, number: int) -> bool:
        """Tell whether a server is still to be there."""
        try:
            self.server(number).open().close()  # it is opened: NFS then looks for it anew
        except FileNotFoundError:
            return False
        except OSError:  # of a file server that is away: the beacon decides
            return True
        return True

    def endpoint(self, number: int) -> Path:
        """Return the file that says where a server listens."""
        return self.path / f"endpoint-{number}.json"

    def endpoints(self) -> dict[int, Endpoint]:
        """Return where servers listen that are ready, by their numbers."""
        refresh(self.path)
        found = {}
        for path in self.path.glob("endpoint-*.json"):
            with suppress(FileNotFoundError, ParameterError):  # it has just been removed
                found[int(path.stem.partition("-")[2])] = Endpoint.read(path)
        return dict(sorted(found.items()))

    def bury(self) -> None:
        """Note that the driver is dead, for the jobs in the queue and for later runs."""
        with suppress(OSError):  # it may be gone already
            self.tombstone.touch()
            for path in self.path.glob("endpoint-*.json"):  # they have keys
                path.unlink(missing_ok=True)

    def has_dead_driver(self) -> bool:
        """Tell whether the driver is known to be dead: a job says so, or it was on this host."""
        try:
            driver = ProcessIdentity.parse(self.beacon.read_text().partition(" ")[0])
            is_dead = driver.is_dead()
        except (OSError, ValueError, ProcError):  # it is just being written, or gone
            is_dead = False
        return is_dead or self.tombstone.exists()

    def submission(self, name: str) -> SubmissionDirectory:
        """Return the directory of one submission."""
        return SubmissionDirectory(self.path / name)

    def finish(self) -> None:
        """Remove the directory, and what earlier runs have left that failed: all is done now."""
        sweep_runs(self.path.parent)
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


def sweep_runs(parent: Path) -> None:
    """Remove the directories of runs whose drivers died; jobs of theirs that are left then end.

    Parameters
    ----------
    parent
        Where the runs have their directories.
    """
    for run in map(RunDirectory, parent.glob("hermes-*")):
        if run.has_dead_driver():
            run.remove(keep_logs=False)


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

    def _work(self, number: int) -> Path:
        return self.path / f"{number}.work.json"

    def _status(self, number: int) -> Path:
        return self.path / f"{number}.status.json"

    def write_work(self, number: int, work: Work) -> None:
        """Say what a job is to do; hooks, which are Python, stay behind."""
        requests = [asdict(replace(request, hooks=files.NO_HOOKS)) for request in work.requests]
        text = json.dumps({"server": work.server, "requests": requests}, default=_as_json)
        write_whole(self._work(number), text, mode=0o600, durable=False)

    def read_work(self, number: int) -> Work:
        """Return what a job is to do."""
        facts = json.loads(self._work(number).read_text())
        requests = tuple(_request(**each) for each in facts["requests"])
        return Work(requests=requests, server=facts["server"])

    def write_status(self, number: int, status: JobStatus) -> None:
        """Say what a job has done."""
        write_whole(self._status(number), json.dumps(asdict(status)), mode=0o600, durable=False)

    def read_status(self, number: int) -> JobStatus:
        """Return what a job has said last that it has done."""
        try:
            return JobStatus(**json.loads(self._status(number).read_text()))
        except FileNotFoundError:
            return JobStatus()


def is_done(request: files.Request) -> bool:
    """Tell whether the output of a request is there, as a job on any host has left it."""
    refresh(request.output_file.parent)
    return files.fingerprint_of(request.output_file) == request.fingerprint


def refresh(directory: Path) -> None:
    """Have NFS look at a directory anew: it remembers for a while which files were not there."""
    with suppress(OSError):
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))


def _as_json(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else str(value)


def _request(
    input_files: list[str], output_file: str, options: dict[str, Any], hooks: object, **facts: Any
) -> files.Request:
    del hooks  # there are none
    values: dict[str, Any] = {name: _as_tuples(value) for name, value in options.items()}
    return files.Request(
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
