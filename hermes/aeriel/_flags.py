"""What the flags of tritonserver say."""

from __future__ import annotations

from collections.abc import Sequence

# Triton's words for false.
_FALSE = {"false", "off", "0"}


def flag_values(arguments: Sequence[str], name: str) -> list[str]:
    """Return the values of a flag of tritonserver, in either spelling; the last one counts."""
    return [
        argument.partition("=")[2] if "=" in argument else following
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True)
        if argument.partition("=")[0] == f"--{name}"
    ]


def is_off(arguments: Sequence[str], name: str) -> bool:
    """Return whether a flag that is true by default has the value false."""
    return any(value.lower() in _FALSE for value in flag_values(arguments, name)[-1:])
