"""Hooks: what a user does to rows before they are sent, and to outputs before they are stored."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hermes.aeriel import client
from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.files._hook_source import source_of
from hermes.errors import HookError, ParameterError

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Which rows of a file, or windows of its series, the arrays of a hook have.

    An index (a mask, numbers or a slice) takes some of them: ``rows[outputs["snr"][:, 0] > 8]``.

    Parameters
    ----------
    files : tuple of pathlib.Path
        The input file; several where each has some of the channels.
    numbers : numpy.ndarray
        The number of each row in the file, int64 of shape ``(rows,)``, from 0 and ascending;
        read-only.
    windows : Windows or None
        How the series of the first input is cut, where the rows are windows: ``window``, ``stride``
        and ``shifts`` in samples, ``sample_rate`` in Hz, and the ``start_time`` of the series in
        seconds.
    """

    files: tuple[Path, ...]
    numbers: NDArray[np.int64]
    windows: client.Windows | None = None

    def __post_init__(self) -> None:
        numbers = self.numbers.view()
        numbers.flags.writeable = False  # they are what is stored
        object.__setattr__(self, "numbers", numbers)

    @classmethod
    def of(cls, files: tuple[Path, ...], rows: range, windows: client.Windows | None) -> Self:
        """Return all rows of a range."""
        numbers = np.arange(rows.start, rows.stop, dtype=np.int64)
        return cls(files=files, numbers=numbers, windows=windows)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Self:
        return type(self)(
            files=self.files, numbers=np.atleast_1d(self.numbers[index]), windows=self.windows
        )

    def __str__(self) -> str:
        if not len(self):
            return "no rows"
        unit = "rows" if self.windows is None else "windows"
        return f"{unit} {self.numbers[0]} to {self.numbers[-1]}"

    @property
    def times(self) -> NDArray[np.float64] | None:
        """The time of each row in seconds, that of its window's first sample; None if not known.

        Float64 of shape ``(rows,)``. In a channel with a shift the samples are later by that.
        """
        cut = self.windows
        if cut is None or cut.sample_rate is None:
            return None
        return cut.start_time + (cut.origin + self.numbers * cut.stride) / cut.sample_rate

    @property
    def start_time(self) -> float | None:
        """The time of the first row in seconds; None if not known, or if there are no rows."""
        times = self.times
        return None if times is None or not len(self) else float(times[0])

    @property
    def sample_rate(self) -> float | None:
        """Samples per second of the series; None if not known."""
        return None if self.windows is None else self.windows.sample_rate

    @property
    def stride(self) -> int | None:
        """Samples from one row to the next; None where rows are no windows."""
        return None if self.windows is None else self.windows.stride


Preprocess = Callable[[Arrays, Rows], Mapping[str, Any]]
Postprocess = Callable[[Arrays, Rows], Any]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What is done to the rows of a file on their way, a block at a time.

    A block is always the same rows of a file, also in a run that goes on after a kill. A hook has
    to give the same for the same rows, and may be called again for them. It keeps nothing of one
    block for the next.

    Parameters
    ----------
    preprocess
        ``preprocess(inputs, rows)`` returns what is sent. `inputs` has an array of shape
        ``(rows, *shape)`` for each dataset, by the names of ``input_map`` (those of the model's
        inputs where that is empty), in the dtype of the file; strings as bytes objects. The arrays
        may be changed. It returns an array of shape ``(rows, *shape)`` for each input of the model,
        in the model's dtype. A block has about 4 MiB, lies within one sequence, and is whole
        requests.
    postprocess
        ``postprocess(outputs, rows)`` returns what is stored: a dict of arrays of shape
        ``(rows, *shape)``, with the names and dtypes that the file is to have; or that for fewer
        rows, and these: ``return {"snr": snr[loud]}, rows[loud]``. Each block has to have the same
        names, dtypes and shapes of a row, and its rows either always or never.
    block_rows
        The rows of a block of `postprocess`, from the beginning of the file or sequence on, rounded
        up to whole requests; 0: as many as are about 16 MiB of outputs, 65536 at most. A block is
        in memory as a whole.
    variants
        The names of several versions of the rows that are made of one read of the file, such as
        ``("background", "injected")``. `preprocess` then returns a dict of inputs for each. They
        are sent side by side, as sequences of their own where the model keeps a state. The outputs
        are called ``background.y`` and ``injected.y``, for `postprocess` and in the file.
    """

    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    block_rows: int = 0
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.block_rows < 0:
            raise ParameterError("block_rows", f"{self.block_rows} is below 0")
        if self.variants and self.preprocess is None:
            raise ParameterError("variants", "are made by a preprocess; define one")
        names = set(self.variants)
        if len(names) != len(self.variants) or not all(name.isidentifier() for name in names):
            problem = f"{list(self.variants)} are not different names of letters and digits"
            raise ParameterError("variants", problem)

    def facts(self) -> dict[str, Any]:
        """Return what a result depends on, for a fingerprint; nothing without a hook.

        That is the source of the hooks (of a method, that of each class that its class inherits it
        from) and of what they use of their own module and class; the constants that they read there
        (numbers, texts and tuples); the attribute ``version`` of what they belong to; and
        `block_rows`. Other modules, files, arrays, lists and dicts are not looked at: raise
        ``version`` where those change.

        Raises
        ------
        ParameterError
            The source of a hook is not there, as in an interactive session, and no version is.
        """
        if not self.given:
            return {}
        return {
            **{name: _facts_of(name, hook) for name, hook in self.given.items()},
            "block_rows": self.block_rows,
            **({"variants": self.variants} if self.variants else {}),
        }

    @property
    def n_variants(self) -> int:
        """How many requests there are for the same rows."""
        return max(1, len(self.variants))

    @property
    def given(self) -> dict[str, Callable[..., Any]]:
        """The hooks that there are, by name."""
        hooks = {"preprocess": self.preprocess, "postprocess": self.postprocess}
        return {name: hook for name, hook in hooks.items() if hook is not None}


NO_HOOKS = Hooks()


def variant_name(variant: str, output: str) -> str:
    """Return what an output of a variant is called."""
    return f"{variant}.{output}"


def check_hooks(hooks: Hooks, options: InferenceOptions, model: client.ModelSpecification) -> None:
    """Raise ParameterError where an option, or the model, does not go with a hook."""
    if model.stateful and model.max_sequences < hooks.n_variants:
        problem = f"{hooks.n_variants} sequences side by side, but model {model.name!r} keeps"
        advice = "raise max_candidate_sequences, or max_batch_size, in its config.pbtxt"
        raise ParameterError("variants", f"{problem} {model.max_sequences} at once; {advice}")
    if hooks.preprocess is not None and options.cast:
        problem = "does not go with a preprocess, which gets the file's dtypes and rounds itself"
        raise ParameterError("cast", f"{problem}; leave it out")
    if options.varying and (hooks.postprocess is not None or hooks.variants or options.keep):
        problem = "outputs of varying length do not go with postprocess, variants or keep"
        raise ParameterError("varying", problem)


def call(name: str, hook: Callable[[Arrays, Rows], Any] | None, arrays: Arrays, rows: Rows) -> Any:
    """Return what a hook returns.

    Raises
    ------
    HookError
        It raised an exception, which is the cause.
    """
    assert hook is not None  # noqa: S101 (for the type checker: a plan is for one)
    try:
        return hook(arrays, rows)
    except Exception as error:
        # The place in the hook, which the traceback has last: Luigi's log shows no traceback.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
        raise problem_of(name, rows, problem) from error


def array_problem(array: Any, n_rows: int) -> str:
    """Return why something is no array with so many rows, or nothing."""
    if not isinstance(array, np.ndarray):
        return f"is {type(array).__name__}, not a numpy array"
    if isinstance(array, np.ma.MaskedArray):
        return "is a masked array, whose mask would be lost; fill what is masked"
    if array.ndim == 0 or len(array) != n_rows:
        return f"has shape {array.shape}, for {n_rows} rows"
    return ""


def problem_of(name: str, rows: Rows, problem: str) -> HookError:
    """Return the error that a hook is at fault for."""
    return HookError(
        hook=name, file=", ".join(map(str, rows.files)), rows=str(rows), problem=problem
    )


def _facts_of(name: str, hook: Callable[..., Any]) -> dict[str, Any]:
    owner = getattr(hook, "__self__", hook)
    version = getattr(owner, "version", None)
    try:
        source = source_of(hook)
    except (OSError, TypeError) as error:
        if version is None:
            problem = "its source, which the result depends on, cannot be read"
            advice = "write it into a file, or give what it belongs to an attribute version"
            raise ParameterError(name, f"{problem} ({error}); {advice}") from error
        source = []
    return {"source": source, "version": version}
