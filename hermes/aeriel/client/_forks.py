"""Forks: a forked process must not use the connections of its parent.

They would share its connections, and take each other's answers; its threads are not there, and its
locks are in whatever state they had. Each opens its own, which gRPC allows for as long as no thread
of the parent was inside of gRPC when it forked
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md): so a fork waits for that a while.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

# How long a fork waits for gRPC calls to end.
FORK_WAIT_S = 2.0


class Process:
    """One process; a forked child has another one, even with the same process id."""

    def __init__(self, *, has_grpc: bool = True) -> None:
        self.has_grpc = has_grpc


class GrpcCalls:
    """The gRPC calls of all threads, each in a context. None begins during a fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._forks = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._forks:
                self._changed.wait()
            self._calls += 1

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._calls -= 1
            if self._forks:
                self._changed.notify_all()

    def hold(self) -> None:
        """Let no call begin, and wait for those that have begun."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._calls, FORK_WAIT_S)

    def release(self) -> None:
        """Let calls begin again."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def are_under_way(self) -> bool:
        """Return whether a thread is in a call."""
        return self._calls > 0


_this = Process()
_calls = GrpcCalls()


def this_process() -> Process:
    """Return an object for this process; a forked child has another one."""
    return _this


def grpc_call() -> GrpcCalls:
    """Return the context in which a thread calls gRPC."""
    return _calls


def _forked() -> None:
    global _this, _calls  # noqa: PLW0603 (facts of the whole process)
    _this = Process(has_grpc=_this.has_grpc and not _calls.are_under_way())
    _calls = GrpcCalls()


os.register_at_fork(
    before=lambda: _calls.hold(),  # noqa: PLW0108 (a fork's forks have others)
    after_in_parent=lambda: _calls.release(),  # noqa: PLW0108
    after_in_child=_forked,
)
