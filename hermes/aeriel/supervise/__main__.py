"""The supervisor's process: ``python -P -m hermes.aeriel.supervise DIRECTORY``.

The directory has the specification of the server.
"""

import sys
from pathlib import Path

from hermes.aeriel.supervise._supervisor import run

if __name__ == "__main__":
    run(Path(sys.argv[1]))
