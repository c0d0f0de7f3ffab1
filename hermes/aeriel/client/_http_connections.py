"""Persistent connections to an HTTP service, which are closed soon after their last use."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
import time
import weakref
from collections import deque
from typing import Protocol

from hermes.aeriel._addresses import connect
from hermes.aeriel.client._carriers import STEP_S

# A link may be slow, or lose a packet.
CONNECT_S = 5.0
# Triton waits for open connections when it stops, up to half a minute.
IDLE_S = 0.5
# How long the exit of the process may take for answers that nobody reads.
EXIT_S = 2.0


class ConnectionUser(Protocol):
    """A call that may hold one of the connections."""

    def __hash__(self) -> int: ...

    def is_done(self) -> bool:
        """Return whether the server has finished the call."""

    def is_under_way(self, unread_since: float) -> bool:
        """Return whether the call holds a connection.

        It releases one whose answer has been waiting to be read since before `unread_since`.
        """

    def cut(self) -> None:
        """Close the connection, even before the answer."""

    def end(self) -> None:
        """Close the connection."""

    def release(self) -> socket.socket | None:
        """Return the connection, which the call no longer holds."""


class HttpConnections:
    """Connections to one HTTP service.

    A connection that has not been used for `IDLE_S` seconds is closed. An answer that nothing reads
    for so long, such as that of a suspended stream, is read into memory, and its connection is
    closed. The connection of an abandoned call is closed as soon as the server has answered. All
    connections are closed when the process is about to exit.

    Parameters
    ----------
    address
        ``host:port``, or ``unix:PATH``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.closing = threading.Event()
        # Connections that no call uses, with the time of their last use, in that order.
        self._idle: deque[tuple[float, socket.socket]] = deque()
        self._given_up: list[ConnectionUser] = []
        self._calls: weakref.WeakSet[ConnectionUser] = weakref.WeakSet()
        self._watch: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self, call: ConnectionUser, timeout_s: float) -> socket.socket:
        """Return a connection for a call; opening a new one may take `timeout_s`.

        Raises
        ------
        OSError
            The service cannot be connected to.
        """
        with self._lock:
            self._calls.add(call)
            self._ensure_watch()
            if self._idle:
                return self._idle.pop()[1]
        connection = connect(self.address, max(0.0, min(timeout_s, CONNECT_S)))
        connection.settimeout(STEP_S)
        return connection

    def take_back(self, call: ConnectionUser) -> None:
        """Keep the connection of a finished call for the next call."""
        with self._lock:
            self._calls.discard(call)
            if self.closing.is_set() or _is_exiting():
                call.end()
                return
            now = time.monotonic()
            if (connection := call.release()) is not None:
                self._idle.append((now, connection))
                self._ensure_watch()

    def give_up(self, call: ConnectionUser) -> None:
        """Close the connection of an abandoned call when the server has answered."""
        with self._lock:
            if _is_exiting():
                call.cut()
                return
            self._given_up.append(call)
            self._ensure_watch()

    def forget_idle(self) -> None:
        """Close the connections that no call uses: their server may have stopped."""
        with self._lock:
            while self._idle:
                end(self._idle.pop()[1])

    def close(self) -> None:
        """Close the connections that no call uses, and keep no further ones."""
        self.closing.set()
        self.forget_idle()

    def _ensure_watch(self) -> None:
        if self._watch is None:
            # Not a daemon thread: it closes the connections before the process exits. Otherwise a
            # server that the process stops at its exit would wait for them.
            watch = threading.Thread(target=self._end_unused, name="hermes-http")
            watch.start()
            self._watch = watch

    def _end_unused(self) -> None:
        exits_at = math.inf
        while True:
            if self.closing.wait(STEP_S) and (self._calls or self._given_up):
                time.sleep(STEP_S)
            self._look_at_calls(time.monotonic() - (0 if _is_exiting() else IDLE_S))
            with self._lock:
                unused_since = math.inf if _is_exiting() else time.monotonic() - IDLE_S
                while self._idle and self._idle[0][0] < unused_since:
                    end(self._idle.popleft()[1])
                if _is_exiting():
                    for call in self._given_up:
                        call.cut()
                    self._given_up.clear()
                    exits_at = min(exits_at, time.monotonic() + EXIT_S)
                    if time.monotonic() >= exits_at:
                        self._calls.clear()  # a suspended stream must not delay the exit for long
                self._given_up = [each for each in self._given_up if not each.is_done()]
                if not (self._idle or self._given_up or self._calls):
                    self._watch = None
                    return

    def _look_at_calls(self, unread_since: float) -> None:
        with self._lock:
            calls = list(self._calls)
        over = [call for call in calls if not call.is_under_way(unread_since)]
        with self._lock:
            self._calls.difference_update(over)


def is_readable(connection: socket.socket, timeout_s: float = 0.0) -> bool:
    """Return whether data arrives within `timeout_s`, or the connection is closed."""
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
    except ValueError:  # another thread has just closed it
        return True
    return bool(poll.poll(1000 * timeout_s))


def end(connection: socket.socket) -> None:
    """Close a connection, even if a forked process has a copy of the socket."""
    with contextlib.suppress(OSError):  # the server has closed it
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _is_exiting() -> bool:
    """Return whether the main thread has ended: the process waits for its other threads."""
    return not threading.main_thread().is_alive()
