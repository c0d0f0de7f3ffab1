"""What `serve` returns: a server for a ``with`` block, or between two calls in a notebook."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import _GeneratorContextManager
from typing import NoReturn, ParamSpec

from hermes.aeriel.serve._instance import TritonInstance

P = ParamSpec("P")


class ServerBlock(_GeneratorContextManager[TritonInstance]):
    """A server that has not been started yet: for a ``with`` block, or for `start`."""

    def start(self) -> TritonInstance:
        """Start the server without a block, as in the cells of a notebook.

        The instance's `stop` ends it, and gives back its GPUs; so does the end of this process.

        Raises
        ------
        HermesError
            As `serve`.
        """
        instance = self.__enter__()

        def finish() -> None:
            # It runs when nobody kept the instance: Python then closes it, which stops the server.
            if inspect.getgeneratorstate(self.gen) != inspect.GEN_RUNNING:
                self.__exit__(None, None, None)

        instance.call_at_stop(finish)
        return instance

    def __getattr__(self, name: str) -> NoReturn:
        advice = (
            "a server is started by `with serve(…) as instance:`, or, without a block, by "
            "`instance = serve(…).start()` and stopped by `instance.stop()`"
        )
        raise AttributeError(f"serve(…) has no {name!r}: {advice}", name=name, obj=self)


def server_block(
    generate: Callable[P, Generator[TritonInstance, None, None]],
) -> Callable[P, ServerBlock]:
    """Return a function that makes a `ServerBlock` of a generator, as `contextmanager` does."""

    @functools.wraps(generate)
    def block(*args: P.args, **kwargs: P.kwargs) -> ServerBlock:
        return ServerBlock(generate, args, kwargs)

    return block
