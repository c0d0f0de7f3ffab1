"""Forks: a forked process must not use the connections of its parent.

Parent and child would receive each other's answers. A child does not have its parent's threads, and
the locks that these held stay locked. So each process opens its own connections. gRPC works in a
child only if no thread of the parent was in a gRPC call during the fork
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md): a fork waits up to `FORK_WAIT_S` for
calls to end.
"""

from __future__ import annotations

import os
import threading

# How long a fork waits for gRPC calls to end.
FORK_WAIT_S = 2.0


class Process:
    """One process; a forked child has another one, even with the same process id."""

    def __init__(self, *, has_grpc: bool = True) -> None:
        self.has_grpc = has_grpc


class GrpcCalls:
    """A context for each gRPC call, in any thread. No call starts during a fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._forks = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._forks:
                self._changed.wait()
            self._calls += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._calls -= 1
            if self._forks:
                self._changed.notify_all()

    def hold(self) -> None:
        """Block new calls, and wait for the current ones to end."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._calls, FORK_WAIT_S)

    def release(self) -> None:
        """Allow calls again."""
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
    global _this, _calls  # noqa: PLW0603 (state of the process)
    _this = Process(has_grpc=_this.has_grpc and not _calls.are_under_way())
    _calls = GrpcCalls()


os.register_at_fork(
    before=lambda: _calls.hold(),  # noqa: PLW0108 (_calls is replaced in a child)
    after_in_parent=lambda: _calls.release(),  # noqa: PLW0108
    after_in_child=_forked,
)
