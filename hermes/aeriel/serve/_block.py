"""What `serve` returns: a server for a ``with`` block, or between two calls in a notebook."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, _GeneratorContextManager, contextmanager
from types import TracebackType
from typing import NoReturn, ParamSpec

from hermes.aeriel.serve._instance import TritonInstance

P = ParamSpec("P")


class ServerBlock(AbstractContextManager[TritonInstance]):
    """A server that has not been started yet: for a ``with`` block, or for `start`.

    Parameters
    ----------
    server
        The context manager that starts and stops it.
    """

    def __init__(self, server: _GeneratorContextManager[TritonInstance]) -> None:
        self._server = server

    def __enter__(self) -> TritonInstance:
        return self._server.__enter__()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._server.__exit__(error_type, error, traceback)

    def start(self) -> TritonInstance:
        """Start the server without a block, as in the cells of a notebook.

        The instance's `stop` ends it, and gives back its GPUs; so does the end of this process.

        Raises
        ------
        HermesError
            As `serve`.
        """
        instance = self._server.__enter__()

        def finish() -> None:
            # It runs when nobody kept the instance: Python then closes it, which stops the server.
            if inspect.getgeneratorstate(self._server.gen) != inspect.GEN_RUNNING:
                self._server.__exit__(None, None, None)

        instance.call_at_stop(finish)
        return instance

    def __getattr__(self, name: str) -> NoReturn:
        advice = (
            "a server is started by `with serve(…) as instance:`, or, without a block, by "
            "`instance = serve(…).start()` and stopped by `instance.stop()`"
        )
        raise AttributeError(f"serve(…) has no {name!r}: {advice}", name=name, obj=self)


def server_block(generate: Callable[P, Iterator[TritonInstance]]) -> Callable[P, ServerBlock]:
    """Return a function that makes a `ServerBlock` of a generator, as `contextmanager` does."""
    server = contextmanager(generate)

    @functools.wraps(generate)
    def block(*args: P.args, **kwargs: P.kwargs) -> ServerBlock:
        return ServerBlock(server(*args, **kwargs))

    return block
