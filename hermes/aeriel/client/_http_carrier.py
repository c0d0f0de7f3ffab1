"""Requests over kept connections to Triton's HTTP service.

It is the cheaper way where it can be had: a small request costs a quarter of the processor time
that Python's gRPC takes for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import select
import socket
import threading
import time
from collections import deque
from typing import Any

from hermes.aeriel._addresses import connect, http_connection, http_host
from hermes.aeriel.client._carriers import STEP_S, Errors, check
from hermes.aeriel.client._messages import Answer, Message, decode_http, encode_http
from hermes.errors import InferenceError

_RECEIVE_BYTES = 1 << 16
# As long as the server is looked for there at first: a link may be slow, or lose a packet.
CONNECT_S = 5.0
# A Triton that is told to stop waits for the end of every connection, for half a minute.
IDLE_S = 0.5
_STATUS = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class HttpCarrier:
    """Requests over kept connections to Triton's HTTP service.

    One that has not been used for `IDLE_S` seconds is ended, and one whose answer nobody waits for
    as soon as that has come. All of them are ended when the process is about to exit.

    Parameters
    ----------
    address
        ``host:port``, or ``unix:PATH``.
    error
        Makes an error of a gRPC status and a reason.
    """

    def __init__(self, address: str, error: Errors) -> None:
        self.address = address
        self.error = error
        self.closing = threading.Event()
        # Connections that nobody uses, and since when: those used last are at the right.
        self._idle: deque[tuple[float, socket.socket]] = deque()
        self._given_up: list[HttpCall] = []
        self._watch: threading.Thread | None = None
        self._lock = threading.Lock()

    def leads_to(self, name: str) -> bool:
        """Tell whether a server of this name answers."""
        facts = self._get("/v2")
        return isinstance(facts, dict) and facts.get("name") == name

    def knows_region(self, name: str) -> bool:
        """Tell whether this is the server that a region was registered with."""
        regions = self._get(f"/v2/systemsharedmemory/region/{name}/status")
        return isinstance(regions, list) and any(
            region.get("name") == name for region in regions if isinstance(region, dict)
        )

    def encode(self, message: Message) -> bytes:
        """Return an HTTP request."""
        return encode_http(message, http_host(self.address))

    def send(self, encoded: bytes, timeout_s: float) -> HttpCall:
        """Send a request."""
        return HttpCall(self, encoded, timeout_s)

    def take(self, timeout_s: float) -> socket.socket:
        """Return a connection that nobody uses; a new one may take so many seconds."""
        with self._lock:
            if self._idle:
                return self._idle.pop()[1]
        connection = connect(self.address, max(0.0, min(timeout_s, CONNECT_S)))
        connection.settimeout(STEP_S)
        return connection

    def take_back(self, call: HttpCall) -> None:
        """Keep the connection of a call that is over for the next request."""
        with self._lock:
            if self.closing.is_set() or _is_exiting():
                call.end()
                return
            now = time.monotonic()
            if (connection := call.release()) is not None:
                self._idle.append((now, connection))
                self._ensure_watch()

    def give_up(self, call: HttpCall) -> None:
        """End the connection of a call when the server has answered it."""
        with self._lock:
            if _is_exiting():
                call.cut()
                return
            self._given_up.append(call)
            self._ensure_watch()

    def forget_idle(self) -> None:
        """End the connections that nobody uses: the server that they led to may be gone."""
        with self._lock:
            while self._idle:
                _end(self._idle.pop()[1])

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        self.forget_idle()

    def _ensure_watch(self) -> None:
        if self._watch is None:
            # Not a daemon: it ends the connections before the process exits. A server that the
            # process stops as it exits would wait for them.
            watch = threading.Thread(target=self._end_unused, name="hermes-http")
            watch.start()
            self._watch = watch

    def _end_unused(self) -> None:
        while True:
            if self.closing.wait(STEP_S) and self._given_up:
                time.sleep(STEP_S)
            with self._lock:
                unused_since = math.inf if _is_exiting() else time.monotonic() - IDLE_S
                while self._idle and self._idle[0][0] < unused_since:
                    _end(self._idle.popleft()[1])
                if _is_exiting():
                    for call in self._given_up:
                        call.cut()
                    self._given_up.clear()
                self._given_up = [call for call in self._given_up if not call.is_done()]
                if not self._idle and not self._given_up:
                    self._watch = None
                    return

    def _get(self, path: str) -> Any:
        """Return an answer in JSON; None where there is none."""
        connection = http_connection(self.address, CONNECT_S)
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()


class HttpCall:
    """One request over HTTP."""

    def __init__(self, carrier: HttpCarrier, encoded: bytes, timeout_s: float) -> None:
        self._carrier = carrier
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._connection: socket.socket | None = None
        self._failure: InferenceError | None = None
        self._is_waited_for = False
        self._has_begun = False  # the answer
        self._is_cut = False
        try:
            self._connection = carrier.take(timeout_s)
            self._send(self._connection, encoded)
        except InferenceError as error:
            self.end()
            self._failure = error
        except OSError as error:
            self._failure = self._broken(error)
        except BaseException:  # Ctrl-C, whose traceback would keep the connection
            self.end()
            raise

    def answer(self) -> Answer:
        """Wait for the answer."""
        if self._failure is not None or self._connection is None:
            try:
                raise self._failure or self._carrier.error("CANCELLED", "the request was cancelled")
            finally:
                self._failure = None  # or its traceback, which has this frame, would keep itself
        self._is_waited_for = True
        try:
            status, fields, body = self._receive(self._connection)
        except InferenceError:  # of which one is an OSError too
            raise
        except OSError as error:
            raise self._broken(error) from error
        except (ValueError, KeyError) as error:
            raise self._broken(f"no HTTP answer of Triton's: {error}") from error
        finally:
            self._is_waited_for = False
        self._carrier.take_back(self)
        if status != 200:
            reason = _reason(bytes(body))
            raise self._carrier.error(_STATUS.get(status, "INTERNAL"), reason)
        length = fields.get(b"inference-header-content-length")
        return decode_http(body, None if length is None else int(length))

    def is_done(self) -> bool:
        """Tell whether the server has answered, or ended the connection."""
        connection = self._connection
        if connection is None:
            return not self._is_cut
        if self._is_waited_for:  # who waits will know
            return False
        if not (self._has_begun or _is_readable(connection)):
            return False
        self.end()
        return True

    def cancel(self) -> None:
        """Leave it to the carrier, which ends the connection when the server has answered."""
        if not self.is_done():
            self._carrier.give_up(self)

    def cut(self) -> None:
        """End the connection, so that nobody will know when the server has done with it."""
        self._is_cut = True
        self.end()

    def release(self) -> socket.socket | None:
        """Return the connection, which is no longer this call's."""
        connection, self._connection = self._connection, None
        return connection

    def end(self) -> None:
        """End the connection."""
        connection = self.release()
        if connection is not None:
            _end(connection)

    def _send(self, connection: socket.socket, encoded: bytes) -> None:
        left = memoryview(encoded)
        while left:
            try:
                sent = connection.send(left)
            except TimeoutError:
                check(self._carrier, self._deadline, self._timeout_s)
                continue
            left = left[sent:]

    def _receive(self, connection: socket.socket) -> tuple[int, dict[bytes, bytes], memoryview]:
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._some(connection)
        lines = bytes(data[:end]).split(b"\r\n")
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        start = end + 4
        size = int(fields[b"content-length"])
        while len(data) - start < size:
            data += self._some(connection, start + size - len(data))
        return int(lines[0].split()[1]), fields, memoryview(data).toreadonly()[start:]

    def _some(self, connection: socket.socket, expected: int = _RECEIVE_BYTES) -> bytes:
        # Known before anything is read: Ctrl-C may come as soon as it has been.
        while not self._has_begun:
            if _is_readable(connection, STEP_S):
                self._has_begun = True
            else:
                check(self._carrier, self._deadline, self._timeout_s)
        while True:
            try:
                received = connection.recv(max(_RECEIVE_BYTES, expected))
            except TimeoutError:
                check(self._carrier, self._deadline, self._timeout_s)
                continue
            if not received:
                raise ConnectionResetError("the server ended the connection")
            return received

    def _broken(self, problem: object) -> InferenceError:
        self.end()
        self._carrier.forget_idle()
        return self._carrier.error("UNAVAILABLE", f"HTTP at {self._carrier.address}: {problem}")


def _is_exiting() -> bool:
    """Tell whether the main thread has ended, so that the process only waits for its others."""
    return not threading.main_thread().is_alive()


def _is_readable(connection: socket.socket, timeout_s: float = 0.0) -> bool:
    """Tell whether something comes within a time, or the connection has been ended."""
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
    except ValueError:  # another thread has just ended it
        return True
    return bool(poll.poll(1000 * timeout_s))


def _end(connection: socket.socket) -> None:
    """End a connection for the server too: a process that was forked has a copy of the socket."""
    with contextlib.suppress(OSError):  # the server has ended it
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace") or "no details"
