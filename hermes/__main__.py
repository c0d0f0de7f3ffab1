"""The command ``hermes``, and ``python -m hermes``."""

import sys

from hermes.errors import OverwrittenError


def main() -> None:
    """Run the command."""
    try:
        # Not at the top: where another package has overwritten this one, a sentence says so.
        from hermes.cli import app  # noqa: PLC0415
    except OverwrittenError as error:
        sys.exit(f"hermes: {error}")
    app(prog_name="hermes")


if __name__ == "__main__":
    main()
