"""What the commands of ``hermes`` have in common: options, and errors as text."""

from __future__ import annotations

import enum
import inspect
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from hermes._directory import Status
from hermes._reports import is_terminal
from hermes.aeriel._options import (
    SHIFTS,
    InputMap,
    Shifts,
    as_input_map,
    as_shifts,
    join_maps,
    join_shifts,
    read_map,
)
from hermes.errors import HermesError, ParameterError

Options = TypeVar("Options")

# How long a server stays after the last command that shares it.
LINGER_S = 10.0

TEXTS = tuple[str, ...]
_HOW = {
    TEXTS: " As a,b; repeatable.",
    Shifts: " As 0,1s or as a JSON list; repeatable.",
    InputMap: " As x=/path or as a JSON object; repeatable.",
}

Image = Annotated[
    str, typer.Option(help="A Singularity/Apptainer image; none: a Triton of this machine.")
]
GPUs = Annotated[
    str | None, typer.Option(help="GPUs by global index or UUID, as 0,3; '' hides all of them.")
]
NGPUs = Annotated[
    int | None, typer.Option(help="How many GPUs, out of those that are visible and free.")
]
CPU = Annotated[
    bool, typer.Option("--cpu", help="Serve on the CPU, also models that ask for a GPU.")
]
ServerArg = Annotated[
    list[str] | None, typer.Option(help="A further flag of tritonserver; repeatable.")
]


class ExitCode(enum.IntEnum):
    """The exit codes of the steps: those that ``workflows/luigi.cfg`` gives to Luigi's tasks."""

    FAILED = 30
    REFUSED = 35  # before anything was run


class Command(TyperCommand):
    """A command that refuses an option that is repeated, where click takes the last one alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments that are left, of which there are none."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, times in Counter(given).items():
            # An argument has neither; all of its values are one.
            repeats = getattr(option, "multiple", True) or getattr(option, "is_flag", True)
            if times > 1 and not repeats:
                problem = "is given several times, but takes one value; give it once"
                raise typer.BadParameter(problem, ctx, param_hint=option.opts[0])
        return super().parse_args(ctx, args)


@contextmanager
def errors_as_text(code: int = 1) -> Iterator[None]:
    """Print an error of hermes as one message, and exit with a code."""
    try:
        yield
    except HermesError as error:
        typer.echo(f"hermes: {error}", err=True)
        sys.exit(code)


@contextmanager
def interrupts_as_text(advice: str) -> Iterator[None]:
    """At Ctrl-C say how to go on, and exit as a shell expects it."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"hermes: interrupted. {advice}", err=True)
        sys.exit(128 + signal.SIGINT)


def shown(
    title: str,
    files: Mapping[str, tuple[str, int | None]],
    server: Callable[[], Status | None] | None = None,
) -> AbstractContextManager[None]:
    """Show in the terminal, if there is one, what a block does, as `hermes._display.displayed`."""
    if not is_terminal():
        return nullcontext()
    from hermes._display import displayed  # noqa: PLC0415 (an import of 0.1 s)

    return displayed(title, files, server)


def with_options(
    options: type, *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass of options.

    The command gets what was given as keyword arguments, for `read_options`.

    Parameters
    ----------
    options
        The dataclass, whose fields say in their metadata what they are (``help``).
    without
        The names of fields that the command has itself.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        kinds = get_type_hints(options)
        made = [
            _parameter(each, kinds[each.name])
            for each in fields(options)
            if each.name not in without
        ]
        parameters = sorted((*own, *made), key=lambda each: each.default is not each.empty)
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def read_options(options: type[Options], given: Mapping[str, Any], **others: Any) -> Options:
    """Return the options that a command was given.

    Parameters
    ----------
    options
        The dataclass.
    given
        The keyword arguments of a command that `with_options` decorates.
    others
        The fields that the command has itself.

    Raises
    ------
    ParameterError
        An option cannot be understood.
    """
    kinds = get_type_hints(options)
    read = {TEXTS: _texts, InputMap: read_map_option, Shifts: _shifts}
    values: dict[str, Any] = {
        name: read[kinds[name]](name, value) if kinds[name] in read else value
        for name, value in given.items()
    }
    return options(**values, **others)


def read_gpus(text: str | None) -> tuple[int | str, ...] | None:
    """Return the GPUs that an option names; None where it is not given."""
    if text is None:
        return None
    return tuple(int(gpu) if gpu.isdigit() else gpu for gpu in text.split(",") if gpu)


def _parameter(option: Field[Any], kind: Any) -> inspect.Parameter:
    text = option.metadata["help"] + _HOW.get(kind, "")
    # A flag has no opposite: what is not given is off.
    names = (f"--{option.name.replace('_', '-')}",) if kind is bool else ()
    is_repeated = kind in _HOW
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if is_repeated or option.default is MISSING else option.default,
        annotation=Annotated[
            list[str] | None if is_repeated else kind,
            typer.Option(*names, help=text, min=0 if kind in {int, float} else None),
        ],
    )


def _texts(_: str, texts: Sequence[str] | None) -> tuple[str, ...]:
    parts = (part.strip() for text in texts or () for part in text.split(","))
    return tuple(part for part in parts if part)


def _shifts(name: str, texts: Sequence[str] | None) -> Shifts:
    return join_shifts(name, [_read_shifts(name, text) for text in texts or ()])


def _read_shifts(name: str, text: str) -> Shifts:
    if not text.lstrip().startswith("["):
        return _texts(name, [text])
    try:
        return as_shifts(json.loads(text))
    except ValueError as error:
        raise ParameterError(name, f"{text!r} is not {SHIFTS}") from error


def read_map_option(name: str, texts: Sequence[str] | None) -> InputMap:
    """Return the map that the texts of an option are, or raise ParameterError."""
    return join_maps(name, [_read_map(name, text) for text in texts or ()])


def _read_map(name: str, text: str) -> InputMap:
    try:
        return as_input_map(read_map(text))
    except ValueError as error:
        problem = f"{text!r} is not like x=/path, nor a JSON object of paths, or of lists of them"
        raise ParameterError(name, problem) from error
