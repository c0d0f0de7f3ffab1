from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from hermes.aeriel.serve import TritonInstance, serve
from hermes.runtime import LocalTriton, install_triton
from tests.helpers import write_program

# A fresh `torch` for Python 3.11 is this one where its file lies on the disk.
TORCH = os.environ.get("HERMES_TEST_TORCH", "torch")

Serve = Callable[..., contextlib.AbstractContextManager[triton.InferenceServerClient]]


@pytest.fixture(scope="session")
def plain_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a fresh Triton, without anything that it does not come with."""
    home = tmp_path_factory.mktemp("plain")
    install_triton(home, report=print)
    return home


@pytest.fixture(scope="session")
def triton_home(request: pytest.FixtureRequest) -> Path:
    """A home with an installed Triton; HERMES_TRITON_HOME saves the time to make one."""
    named = os.environ.get("HERMES_TRITON_HOME")
    if not named:
        fresh: Path = request.getfixturevalue("plain_home")
        return fresh
    install_triton(Path(named), report=print)
    return Path(named)


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an installed Triton that has torch."""
    named = os.environ.get("HERMES_TRITON_HOME")
    home = Path(named) if named else tmp_path_factory.mktemp("torch")
    install_triton(home, packages=[TORCH], report=print)
    return home


@pytest.fixture(scope="session")
def serve_models() -> Serve:
    """Return a context: the client of a real server for a home and a model repository."""

    @contextlib.contextmanager
    def served(home: Path, repository: Path, *options: str) -> Iterator[Any]:
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("HERMES_TRITON_HOME", str(home))
            environ.delenv("HERMES_TRITON_BINARY", raising=False)
            # Some of the models are there to fail: the server is to live on without them.
            # A model whose configuration names no device is to find none but the CPU.
            arguments = ["--exit-on-error=false", *options]
            server = serve(repository, ports="auto", gpus=[], server_args=arguments)
            with server as instance, triton.InferenceServerClient(instance.endpoint.grpc) as client:
                _wait_until_live(client, instance)
                yield client

    return served


@pytest.fixture(scope="session")
def infer() -> Callable[..., dict[str, Any]]:
    """Return a function: the outputs of one request, by name."""

    def answered(
        client: Any, model: str, outputs: Sequence[str] = (), **inputs: npt.NDArray[Any]
    ) -> dict[str, Any]:
        answer = client.infer(
            model,
            [_as_input(name, array) for name, array in inputs.items()],
            outputs=[triton.InferRequestedOutput(name) for name in outputs] or None,
        )
        names = [output.name for output in answer.get_response().outputs]
        return {name: answer.as_numpy(name) for name in names}

    return answered


@pytest.fixture(scope="session")
def infer_sequence() -> Callable[..., list[Any]]:
    """Return a function: the answers to the requests of one sequence, in order."""

    def answered(
        client: Any, model: str, sequence: int, name: str, requests: Sequence[npt.NDArray[Any]]
    ) -> list[Any]:
        return [
            client.infer(
                model,
                [_as_input(name, array)],
                sequence_id=sequence,
                sequence_start=index == 0,
                sequence_end=index == len(requests) - 1,
            )
            for index, array in enumerate(requests)
        ]

    return answered


@pytest.fixture(scope="session")
def reason() -> Callable[..., str]:
    """Return a function: what Triton says of a model that it did not load."""

    def said(client: Any, model: str) -> str:
        index = client.get_model_repository_index(as_json=True)["models"]
        (entry,) = [entry for entry in index if entry["name"] == model]
        assert entry["state"] == "UNAVAILABLE"
        return str(entry["reason"])

    return said


@pytest.fixture(scope="session")
def infer_at_once() -> Callable[..., list[Any]]:
    """Return a function: the answers, or the errors, of requests that are in flight together."""

    def answered(
        client: Any, model: str, name: str, requests: Sequence[npt.NDArray[Any]]
    ) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        waiting = threading.Semaphore(0)

        def remember(index: int, result: Any, error: Any) -> None:
            answers[index] = error or result
            waiting.release()

        for index, array in enumerate(requests):
            client.async_infer(
                model,
                [_as_input(name, array)],
                lambda result, error, index=index: remember(index, result, error),
            )
        for _ in requests:
            assert waiting.acquire(timeout=60)
        return answers

    return answered


def _as_input(name: str, array: npt.NDArray[Any]) -> Any:
    tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _wait_until_live(client: Any, instance: TritonInstance) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert instance.is_alive()
        with contextlib.suppress(triton.InferenceServerException):
            if client.is_server_live():
                return
        time.sleep(0.1)
    pytest.fail("no server after 300 s")


@pytest.fixture
def system_triton(tmp_path: Path) -> LocalTriton:
    """An executable called tritonserver, somewhere."""
    binary = tmp_path / "a system" / "tritonserver"
    binary.parent.mkdir()
    write_program(binary, "")
    return LocalTriton(binary=binary, source="the PATH")
