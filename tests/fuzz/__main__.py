"""``python -m tests.fuzz [RUNS]``: the long form, with RUNS mutations for each reader."""

from __future__ import annotations

import os
import sys
from pathlib import Path

RUNS = "20000"


def main() -> int:
    """Run the tests of this package with more mutations."""
    # Before the package's modules are imported, which read it.
    from tests.fuzz import RUNS_VARIABLE

    os.environ[RUNS_VARIABLE] = sys.argv[1] if len(sys.argv) > 1 else RUNS
    command = [sys.executable, "-m", "pytest", "-n0", "--timeout=0", str(Path(__file__).parent)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
