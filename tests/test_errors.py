from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path

import pytest

import hermes.errors
from hermes.errors import (
    LOG_TAIL_LINES,
    DataError,
    EngineError,
    FilesError,
    GPUBusyError,
    HermesError,
    HookError,
    ImageError,
    InferenceError,
    InputError,
    InstallError,
    InstanceExistsError,
    InstanceStartError,
    JobsError,
    LockTimeoutError,
    MissingExtraError,
    ModelError,
    ModelLoadError,
    ModelNotFoundError,
    OutputError,
    OverwrittenError,
    ParameterError,
    PortInUseError,
    ProcError,
    RequestError,
    RequestTimeoutError,
    RequirementError,
    ServerDiedError,
    ServerError,
    ServerHangsError,
    ServerStopError,
    ServerTimeoutError,
    SingularityNotFoundError,
    SupervisorError,
    TritonNotFoundError,
    log_tail,
)

LOG = Path("/tmp/a log")

# Every error with facts of its own, and what its text must hold: what happened, where, what next.
MESSAGES: list[tuple[HermesError, list[str]]] = [
    (ParameterError("gpus", "-1 is no index"), ["gpus: -1 is no index"]),
    (
        MissingExtraError("matplotlib", "report"),
        ["matplotlib", "pip install 'hermes-aeriel[report]'"],
    ),
    (InstallError("pip install", "no\nspace"), ["pip install failed", "  | no\n  | space"]),
    (
        TritonNotFoundError(("the PATH", "/opt"), "Install one."),
        ["no tritonserver found; looked in the PATH; /opt. Install one."],
    ),
    (SingularityNotFoundError("a.sif"), ["a.sif", "`apptainer`", "Install Apptainer"]),
    (ImageError("a.sif", "does not exist"), ["image a.sif: does not exist"]),
    (InstanceExistsError("mine"), ["'mine' is already running", "apptainer instance stop mine"]),
    (InstanceStartError("a.sif", "FATAL: no"), ["a.sif", "  | FATAL: no"]),
    (
        GPUBusyError(wanted="GPU 0", holders=("GPU 0 is held by process 7",)),
        ["wanted GPU 0, but GPU 0 is held by process 7", "hermes ps"],
    ),
    (
        PortInUseError("127.0.0.1:8001", "GRPC"),
        ["the GRPC address 127.0.0.1:8001 is already in use", 'ports="auto"'],
    ),
    (
        ServerDiedError(("tritonserver", "--id=a b"), 1, LOG, "E1123 no\nerror: stop"),
        ["exit code 1", str(LOG), "  | E1123 no\n  | error: stop", "tritonserver '--id=a b'"],
    ),
    (
        ServerHangsError("a model died", LOG, "stub gone"),
        ["the Triton server hangs: a model died", str(LOG), "  | stub gone"],
    ),
    (
        ServerTimeoutError("localhost:8001", 2.5, "no answer"),
        ["the server at localhost:8001 was not ready after 2.5 s: no answer"],
    ),
    (
        ServerTimeoutError("localhost:8001", 2.0, "no answer", LOG, "loading"),
        [f"after 2 s: no answer. Its log, {LOG}, ends with:\n  | loading"],
    ),
    (ServerStopError("hermes-1", ("process 7",)), ["hermes-1", "still there: process 7"]),
    (
        LockTimeoutError("/state/lock", 60.0),
        ["another process has held the lock /state/lock for 60 s", "fuser /state/lock"],
    ),
    (ProcError("cannot be read"), ["/proc cannot be read", "--mount-proc"]),
    (SupervisorError("no GPU"), ["no server: no GPU"]),
    (
        SupervisorError("it ended", "Killed"),
        ["no server: it ended. The end of its log:\n  | Killed"],
    ),
    (
        ModelNotFoundError("a", "the server at b", ("c", "d")),
        ["the server at b has no model 'a'; models there: c, d"],
    ),
    (ModelNotFoundError("a", "models", ()), ["models there: none"]),
    (ModelLoadError("a", "b", "no weights"), ["model 'a' of b does not load: no weights"]),
    (
        InputError("a", "x", "float64 of shape (2,)", "dtype float32"),
        ["input 'x' of model 'a': given float64 of shape (2,), wanted dtype float32"],
    ),
    (RequestError("a", "b:1", "INTERNAL", "no"), ["model 'a' at b:1: no (INTERNAL)"]),
    (RequestTimeoutError("a", "b:1", 0.5), ["model 'a' at b:1 did not answer within 0.5 s"]),
    (DataError("a.h5", "is truncated"), ["a.h5: is truncated"]),
    (DataError("a.h5", "has no rows", "x"), ["a.h5, dataset 'x': has no rows"]),
    (
        EngineError(("squeue", "--name=a b"), "ended with exit code 1: no"),
        ["squeue '--name=a b': ended with exit code 1: no"],
    ),
    (FilesError(("a.h5: bad",), 3), ["1 of 3 files cannot be used:", "  | a.h5: bad"]),
    (JobsError(("a.h5: bad",)), ["batch jobs failed:", "  | a.h5: bad"]),
    (JobsError(tuple("abcdefghijkl")), ["  | j", "  | and 2 more"]),
    (
        HookError("preprocess", "/a.h5", "rows 3 to 5", "ValueError: no gain (a.py, line 7)"),
        ["preprocess, rows 3 to 5 of /a.h5: ValueError: no gain (a.py, line 7)"],
    ),
    (
        OverwrittenError(("hermes.aeriel.client",), "another package is here"),
        ["hermes.aeriel.client cannot be imported: another package is here"],
    ),
    (OutputError("/results", "no space left"), ["/results: no space left"]),
    (
        RequirementError(("accuracy 0.9 < 0.95",), "r.html"),
        ["accuracy 0.9 < 0.95. The report is r.html"],
    ),
]


def every_error(base: type[HermesError] = HermesError) -> list[type[HermesError]]:
    """Return a class and those below it that hermes defines, parents first."""
    below = [c for c in base.__subclasses__() if c.__module__ == hermes.errors.__name__]
    return [base, *(each for child in below for each in every_error(child))]


@pytest.mark.parametrize(("error", "parts"), MESSAGES, ids=lambda value: type(value).__name__)
def test_message_says_what_happened_where_and_what_to_do(
    error: HermesError, parts: list[str]
) -> None:
    for part in parts:
        assert part in str(error)


def test_every_error_with_facts_has_its_message_tested() -> None:
    with_facts = {error for error in every_error() if dataclasses.is_dataclass(error)}
    assert with_facts == {type(error) for error, _ in MESSAGES}


@pytest.mark.parametrize("error", [error for error, _ in MESSAGES], ids=lambda e: type(e).__name__)
def test_error_crosses_a_process_boundary_with_its_facts(error: HermesError) -> None:
    try:
        raise error from OSError("the cause")
    except HermesError as raised:
        copy = pickle.loads(pickle.dumps(raised))  # noqa: S301 (its own)

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("kind", [HermesError, ServerError, ModelError, InferenceError])
def test_error_without_facts_keeps_its_text(kind: type[HermesError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("a text")))  # noqa: S301 (its own)
    assert type(copy) is kind
    assert str(copy) == "a text"


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    told: dict[str, tuple[str, str | None]] = {}
    parents: list[str] = []
    for line in (hermes.errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)(\w+Error)\b(?: \((\w+)\))?", line):
            indent, name, builtin = found.groups()
            parents[len(indent) // 4 :] = [name]
            told[name] = (parents[-2] if len(parents) > 1 else "Exception", builtin)

    real = {}
    for error in every_error():
        base, *builtin = (parent.__name__ for parent in error.__bases__)
        real[error.__name__] = (base, builtin[0] if builtin else None)

    assert told == real


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_error_is_described_by_a_sentence(error: type[HermesError]) -> None:
    assert re.fullmatch(r"[A-Z`].*\.", (error.__doc__ or "").splitlines()[0])


def test_log_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines = log_tail(log).splitlines()
    assert len(lines) == LOG_TAIL_LINES
    assert lines[-1] == "line 99999"


@pytest.mark.parametrize(
    "error",
    [
        'E1123 07:16:46.428202 29117 model_lifecycle.cc:642] "failed to load"',
        "error: creating server: Internal - failed to load all models",
        "/opt/tritonserver/bin/tritonserver: unrecognized option '--nonsense'",
    ],
)
def test_log_tail_holds_the_errors_that_came_before(error: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rest = "\n".join(f"I1123 line {number}" for number in range(100))
    log.write_text(f"I1123 first\n{error}\n{rest}\n| a table |\n")
    tail = log_tail(log)
    assert tail.startswith(error)
    assert tail.endswith("line 99")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "(the log is empty)"), (b"\xff\xfe bytes", "� bytes"), (None, "cannot be read")],
)
def test_log_tail_of_a_log_that_is_none_says_so(
    content: bytes | None, told: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    if content is not None:
        log.write_bytes(content)
    assert told in log_tail(log)
