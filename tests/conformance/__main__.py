"""``python -m tests.conformance``: every case, and how many were right."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Run the tests of this package on all cases; `--ci` shows what they record."""
    from tests.conformance import ALL_VARIABLE

    os.environ[ALL_VARIABLE] = "1"
    command = [sys.executable, "-m", "pytest", "--ci", "-n0", "--timeout=0"]
    command += ["--override-ini=faulthandler_timeout=0"]
    os.execv(sys.executable, [*command, str(Path(__file__).parent), *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
