"""Requests over kept connections to Triton's HTTP service.

It is the cheaper way where it can be had: a small request costs a quarter of the processor time
that Python's gRPC takes for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections import deque
from typing import Any

from hermes.aeriel._addresses import connect, http_connection, http_host
from hermes.aeriel.client._messages import Answer, Message, decode_http, encode_http
from hermes.aeriel.client._wires import STEP_S, Errors, check
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


class HttpWire:
    """Requests over kept connections to Triton's HTTP service.

    One that has not been used for `IDLE_S` seconds is ended.

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

    def give(self, connection: socket.socket) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            if self.closing.is_set():
                _end(connection)
                return
            self._idle.append((time.monotonic(), connection))
            if self._watch is None:
                self._watch = threading.Thread(
                    target=self._end_unused, name="hermes-http", daemon=True
                )
                self._watch.start()

    def forget_idle(self) -> None:
        """End the connections that nobody uses: the server that they led to may be gone."""
        with self._lock:
            while self._idle:
                _end(self._idle.pop()[1])

    def close(self) -> None:
        """End every wait."""
        self.closing.set()
        self.forget_idle()

    def _end_unused(self) -> None:
        while True:
            self.closing.wait(IDLE_S)
            with self._lock:
                while self._idle and self._idle[0][0] < time.monotonic() - IDLE_S:
                    _end(self._idle.popleft()[1])
                if not self._idle:
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

    def __init__(self, wire: HttpWire, encoded: bytes, timeout_s: float) -> None:
        self._wire = wire
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._connection: socket.socket | None = None
        self._failure: InferenceError | None = None
        self._is_waited_for = False
        try:
            self._connection = wire.take(timeout_s)
            self._send(self._connection, encoded)
        except InferenceError as error:
            self._failure = error
        except OSError as error:
            self._failure = self._broken(error)

    def answer(self) -> Answer:
        """Wait for the answer."""
        if self._failure is not None or self._connection is None:
            raise self._failure or self._wire.error("CANCELLED", "the request was cancelled")
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
        connection, self._connection = self._connection, None
        self._wire.give(connection)
        if status != 200:
            reason = _reason(bytes(body))
            raise self._wire.error(_STATUS.get(status, "INTERNAL"), reason)
        length = fields.get(b"inference-header-content-length")
        return decode_http(body, None if length is None else int(length))

    def is_done(self) -> bool:
        """Tell whether the server has answered, or ended the connection."""
        connection = self._connection
        if connection is None:
            return True
        if self._is_waited_for:
            return False  # who waits will know
        poll = select.poll()
        try:
            poll.register(connection, select.POLLIN)
        except ValueError:  # another thread has just found that out, and closed it
            return True
        if not poll.poll(0):
            return False
        self.cancel()
        return True

    def cancel(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _end(connection)

    def _send(self, connection: socket.socket, encoded: bytes) -> None:
        left = memoryview(encoded)
        while left:
            try:
                sent = connection.send(left)
            except TimeoutError:
                check(self._wire, self._deadline, self._timeout_s)
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
        while True:
            try:
                received = connection.recv(max(_RECEIVE_BYTES, expected))
            except TimeoutError:
                check(self._wire, self._deadline, self._timeout_s)
                continue
            if not received:
                raise ConnectionResetError("the server ended the connection")
            return received

    def _broken(self, problem: object) -> InferenceError:
        self.cancel()
        self._wire.forget_idle()
        return self._wire.error("UNAVAILABLE", f"HTTP at {self._wire.address}: {problem}")


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
