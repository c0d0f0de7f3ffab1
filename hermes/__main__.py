"""The command ``hermes``, and ``python -m hermes``."""

import os
import sys

from hermes.errors import OverwrittenError


def main() -> None:
    """Run the command."""
    _open_standard_streams()
    try:
        # Not at the top: where another package has overwritten this one, a sentence says so.
        from hermes.cli import app  # noqa: PLC0415
    except OverwrittenError as error:
        sys.exit(f"hermes: {error}")
    app(prog_name="hermes")


def _open_standard_streams() -> None:
    """Open the null device for the standard streams that are closed.

    The next files would get their descriptors, and what libraries print to these.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115, PTH123 (it stays open)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
