"""The supervisor's process: ``python -P -m hermes.aeriel.supervise DIRECTORY``.

All of its instructions are in the directory.
"""

import sys
from pathlib import Path

from hermes.aeriel.supervise._supervisor import run

if __name__ == "__main__":
    run(Path(sys.argv[1]))
