"""The options of an inference as those of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from hermes.aeriel._options import InferenceOptions
from hermes.errors import ParameterError

TEXTS = tuple[str, ...]
PAIRS = Mapping[str, str]
_HOW = {TEXTS: " As a,b; repeatable.", PAIRS: " As x=/path; repeatable."}


def with_inference_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each of `InferenceOptions` but the model's name.

    The command gets what was given as keyword arguments, for `inference_options`.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    kinds = get_type_hints(InferenceOptions)
    options = [
        _parameter(each, kinds[each.name])
        for each in fields(InferenceOptions)
        if each.name != "model_name"
    ]
    parameters = sorted((*own, *options), key=lambda each: each.default is not each.empty)
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def inference_options(model_name: str, given: Mapping[str, Any]) -> InferenceOptions:
    """Return the options that a command was given.

    Raises
    ------
    ParameterError
        An option cannot be understood.
    """
    kinds = get_type_hints(InferenceOptions)
    read = {TEXTS: _texts, PAIRS: _pairs}
    values: dict[str, Any] = {
        name: read[kinds[name]](name, value) if kinds[name] in read else value
        for name, value in given.items()
    }
    return InferenceOptions(model_name=model_name, **values)


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


def _pairs(name: str, texts: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts or ():
        key, _, path = text.partition("=")
        if not (key and path):
            raise ParameterError(name, f"{text!r} is not like x=/path")
        if found.setdefault(key, path) != path:
            raise ParameterError(name, f"{key!r} is given as {found[key]} and as {path}")
    return found
