"""What runs in a batch job, and the reaper: ``python -P -m hermes.aeriel.jobs WHAT …``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from hermes.aeriel.jobs._engines import find_engine
from hermes.aeriel.jobs._files import RunDirectory
from hermes.aeriel.jobs._reaper import reap
from hermes.aeriel.jobs._work import infer, run_server
from hermes.errors import HermesError


def main() -> int:
    """Do what the command line says: ``infer RUN SUBMISSION NUMBER``, for one."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    match sys.argv[1:]:
        case ["infer", run, submission, number]:
            return infer(RunDirectory(Path(run)), submission, int(number))
        case ["serve", run, server, _]:
            return run_server(RunDirectory(Path(run)), int(server))
        case ["reap", engine, run]:
            return reap(RunDirectory(Path(run)), find_engine(engine))
        case arguments:
            print(f"not understood: {arguments}", file=sys.stderr)  # noqa: T201 (a command)
            return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HermesError as error:
        sys.exit(f"hermes: {error}")
