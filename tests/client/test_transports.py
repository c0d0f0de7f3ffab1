"""How tensors travel: the same results whatever way, and nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import resource
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hermes._processes import ProcessIdentity
from hermes._shared_memory import PREFIX, sweep_regions
from hermes.aeriel._channel import open_channel
from hermes.aeriel.client import Endpoint, InferenceClient, RowLayout
from hermes.aeriel.client._grpc_carrier import GrpcCarrier
from hermes.aeriel.client._http_carrier import HttpCarrier
from hermes.aeriel.client._transports import requests_of_a_read
from hermes.aeriel.serve import serve
from hermes.errors import ParameterError, RequestError
from tests.helpers import ECHO, kill_server, python, some_ports, wait_until, write_model
from tests.unix import serve_on_sockets, socket_directory

SHARED_MEMORY = Path("/dev/shm")
ME = ProcessIdentity.of(os.getpid())

CUT = """
    def answer(self, request):
        x = array(request, "x")
        return response(y=x[:, :int(x[0, 0])])
"""

WORDS = """
    def answer(self, request):
        return response(y=np.array([str(n).encode() for n in array(request, "x").ravel()], object))
"""

SLOW = """
    def answer(self, request):
        time.sleep(float(array(request, "x").max()))
        return response(y=array(request, "x"))
"""

# The configuration says one value, the model gives three.
LARGER_THAN_IT_SAYS = """
    def answer(self, request):
        return response(y=np.repeat(array(request, "x"), 3, axis=1))
"""

STREAMS_FOR_EVER = """
import itertools, sys
from pathlib import Path
import numpy as np
from hermes.aeriel.client import Endpoint, InferenceClient

with InferenceClient(Endpoint.read(Path(sys.argv[1])), "echo", transport=sys.argv[2]) as client:
    batches = ({"x": np.zeros((8, 4), np.float32)} for _ in itertools.count())
    for number, _ in enumerate(client.stream(batches)):
        if number == 100:
            print(client.transport, flush=True)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_model(models, "echo", ECHO, inputs={"x": ("FP32", [4])}, max_batch_size=8)
    any_length = {"x": ("FP32", [-1])}
    write_model(models, "cut", CUT, inputs=any_length, outputs={"y": ("FP32", [-1])})
    write_model(models, "words", WORDS, outputs={"y": ("STRING", [1])}, max_batch_size=0)
    write_model(models, "single", ECHO, inputs={"x": ("FP32", [4])}, max_batch_size=0)
    write_model(models, "slow", SLOW)
    write_model(models, "long", ECHO, inputs=any_length, outputs={"y": ("FP32", [-1])})
    write_model(models, "larger", LARGER_THAN_IT_SAYS, outputs={"y": ("FP32", [1])})
    return models


@pytest.fixture(scope="module")
def endpoint(repository: Path, triton_home: Path) -> Iterator[Endpoint]:
    with serve(repository, ports="auto", wait=True) as instance:
        yield instance.endpoint


@pytest.fixture(scope="module")
def endpoint_on_sockets(repository: Path, triton_home: Path) -> Iterator[Endpoint]:
    with socket_directory() as directory, serve_on_sockets(repository, directory) as (endpoint, _):
        yield endpoint


@pytest.fixture(scope="module")
def endpoint_in_container(repository: Path, triton_image: Path) -> Iterator[Endpoint]:
    with serve(repository, triton_image, ports="auto", wait=True) as instance:
        yield instance.endpoint


def regions(client: ProcessIdentity = ME) -> list[str]:
    """Return the regions of a process that have a file."""
    return [path.name for path in SHARED_MEMORY.glob(f"{PREFIX}{client}-*")]


def mapped() -> int:
    """Return how many regions this process has in its memory."""
    return Path("/proc/self/maps").read_text().count(f"/{PREFIX}{ME}-")


def registered(endpoint: Endpoint) -> dict[str, int]:
    """Return the regions of this process that the server knows, and their sizes in bytes."""
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(endpoint.grpc) as client:
        known = client.get_system_shared_memory_status().regions
        ours = [name for name in known if name.startswith(f"{PREFIX}{ME}-")]
        return {name: known[name].byte_size for name in ours}


def wire_of(client: InferenceClient) -> object:
    """Return what the requests of a client with shared memory travel by."""
    return client._session.transport._carrier  # type: ignore[attr-defined]


Serving = Callable[[], AbstractContextManager[tuple[Endpoint, Callable[[], None]]]]


class TransportTests:
    """What holds for every way that tensors travel."""

    transport: Any = "grpc"
    travels_by = "grpc"
    with_http = True

    @pytest.fixture
    def image(self, triton_home: Path) -> Path | None:  # noqa: ARG002
        """What a server of the test's own is served from."""
        return None

    @pytest.fixture
    def there(self, endpoint: Endpoint) -> Endpoint:
        return endpoint if self.with_http else dataclasses.replace(endpoint, http=None)

    @contextmanager
    def serving(self, repository: Path, image: Path | None, log: Path) -> Iterator[Serving]:
        """Give what starts a server, again and again at the same address."""
        ports = some_ports()

        @contextmanager
        def serve_it() -> Iterator[tuple[Endpoint, Callable[[], None]]]:
            with serve(repository, image, ports=ports, wait=True, log_file=log) as instance:
                yield instance.endpoint, lambda: kill_server(instance)

        yield serve_it

    def client(self, there: Endpoint, model: str, **options: Any) -> InferenceClient:
        return InferenceClient(there, model, transport=self.transport, **options)

    def test_results_are_those_of_the_requests(self, there: Endpoint) -> None:
        batches = [np.full((1 + n % 8, 4), n, np.float32) for n in range(40)]
        with self.client(there, "echo") as client:
            assert client.transport == self.travels_by
            results = list(client.stream({"x": batch} for batch in batches))
            futures = [client.infer({"x": batch}) for batch in batches]
            for future, result, batch in zip(futures, results, batches, strict=True):
                np.testing.assert_array_equal(result["y"], batch)
                np.testing.assert_array_equal(future.result()["y"], batch)
                assert not result["y"].flags.writeable

    @pytest.mark.parametrize(("rows", "per_request"), [(1, 8), (1000, 8), (37, 5), (9, 1)])
    def test_rows_are_read_once_and_answered_in_order(
        self, rows: int, per_request: int, there: Endpoint
    ) -> None:
        table = np.random.default_rng(0).random((rows, 4), np.float32)
        asked: list[tuple[int, int]] = []

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            asked.append((begin, end))
            arrays["x"][...] = table[begin:end]

        layout = RowLayout(shapes={"x": (4,)}, rows_per_request=per_request)
        with self.client(there, "echo") as client:
            results = client.stream_rows(read, range(rows), layout)
            answers = [result["y"].copy() for result in results]

        np.testing.assert_array_equal(np.concatenate(answers), table)
        assert [end for _, end in asked][:-1] == [begin for begin, _ in asked][1:]
        assert {len(answer) for answer in answers[:-1]} <= {per_request}

    def test_rows_without_an_axis_are_requests_of_their_own(self, there: Endpoint) -> None:
        table = np.arange(44, dtype=np.float32).reshape(11, 4)

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            arrays["x"][...] = table[begin:end]

        layout = RowLayout(shapes={"x": (4,)}, rows_per_request=1, with_row_axis=False)
        with self.client(there, "single") as client:
            answers = [r["y"].copy() for r in client.stream_rows(read, range(3, 11), layout)]
        np.testing.assert_array_equal(answers, table[3:])

    def test_outputs_of_any_length_arrive(self, there: Endpoint) -> None:
        with self.client(there, "cut") as client:
            for length in (0, 1, 5):
                batch = np.full((2, 6), length, np.float32)
                assert client.infer({"x": batch}).result()["y"].shape == (2, length)

    def test_strings_arrive(self, there: Endpoint) -> None:
        with self.client(there, "words") as client:
            answer = client.infer({"x": np.array([2.5], np.float32)}).result()
        assert answer["y"].tolist() == [b"2.5"]

    def test_output_larger_than_the_configuration_says_arrives(self, there: Endpoint) -> None:
        with self.client(there, "larger") as client:
            answers = list(client.stream({"x": np.full((2, 1), n, np.float32)} for n in range(9)))
        assert [answer["y"].shape for answer in answers] == [(2, 3)] * 9

    def test_error_of_the_server_is_told(self, there: Endpoint) -> None:
        with (
            self.client(there, "cut") as client,
            pytest.raises(RequestError, match="int"),
        ):
            client.infer({"x": np.full((1, 1), np.nan, np.float32)}).result()

    def test_stream_that_is_left_ends_at_once_and_spoils_nothing(self, there: Endpoint) -> None:
        with self.client(there, "slow", max_in_flight=2) as client:
            times = [0.0, 3.0, 3.0]
            stream = client.stream({"x": np.full((1, 1), s, np.float32)} for s in times)
            next(stream)
            started = time.monotonic()
            stream.close()  # type: ignore[attr-defined]
            assert time.monotonic() - started < 1
            answers = client.stream({"x": np.full((1, 1), n / 1e3, np.float32)} for n in range(9))
            values = [answer["y"].item() for answer in answers]
            assert values == [np.float32(n / 1e3) for n in range(9)]
        wait_until(lambda: not registered(there))

    def test_server_outlives_streams_that_are_left(self, there: Endpoint) -> None:
        # Triton 2.51 dies of gRPC calls that are cancelled as they end.
        batches = [{"x": np.zeros((8, 4), np.float32)}] * 20
        for number in range(40):
            with self.client(there, "echo") as client:
                for _ in range(10):
                    stream = client.stream(batches)
                    for _ in range(1 + number % 4):
                        next(stream)
                    stream.close()  # type: ignore[attr-defined]
        with self.client(there, "echo", retry_for_s=0.0) as client:
            assert len(list(client.stream(batches))) == 20

    def test_client_that_is_closed_while_the_model_runs_is_closed_at_once(
        self, there: Endpoint
    ) -> None:
        with self.client(there, "slow") as client:
            future = client.infer({"x": np.full((1, 1), 3, np.float32)})
            time.sleep(0.2)
            started = time.monotonic()
            client.close()
            assert time.monotonic() - started < 1
        assert future.exception() is not None
        wait_until(lambda: not registered(there))

    def test_nothing_is_left(self, there: Endpoint) -> None:
        with self.client(there, "echo") as client:
            for _ in client.stream({"x": np.zeros((8, 4), np.float32)} for _ in range(20)):
                assert regions() == []
        wait_until(lambda: not registered(there))

    def test_client_that_is_killed_leaves_no_memory_and_a_server_that_answers(
        self, there: Endpoint, tmp_path: Path
    ) -> None:
        there.write(tmp_path / "endpoint")
        with python(STREAMS_FOR_EVER, tmp_path / "endpoint", self.transport) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == self.travels_by
            killed = ProcessIdentity.of(process.pid)
            process.kill()
            process.wait()
        assert regions(killed) == []
        batches = [np.full((8, 4), n, np.float32) for n in range(40)]
        with self.client(there, "echo") as client:
            results = client.stream({"x": batch} for batch in batches)
            for result, batch in zip(results, batches, strict=True):
                np.testing.assert_array_equal(result["y"], batch)

    def test_restarted_server_is_no_gap(
        self, repository: Path, image: Path | None, tmp_path: Path
    ) -> None:
        table = np.random.default_rng(0).random((4000, 4), np.float32)

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            arrays["x"][...] = table[begin:end]

        layout = RowLayout(shapes={"x": (4,)}, rows_per_request=8)
        answers: list[list[NDArray[Any]]] = [[], []]

        def collect(stream: Iterator[Mapping[str, NDArray[Any]]], into: list[NDArray[Any]]) -> None:
            into.extend(result["y"].copy() for result in stream)

        with self.serving(repository, image, tmp_path / "log") as serve_it, serve_it() as started:
            endpoint, kill = started
            there = endpoint if self.with_http else Endpoint(grpc=endpoint.grpc)
            with self.client(there, "echo", retry_for_s=60) as client, ThreadPoolExecutor() as pool:
                streams = [
                    client.stream_rows(read, range(len(table)), layout),
                    client.stream({"x": rows} for rows in np.split(table, len(table) // 8)),
                ]
                done = [
                    pool.submit(collect, stream, some)
                    for stream, some in zip(streams, answers, strict=True)
                ]
                wait_until(lambda: all(len(some) >= 50 for some in answers))
                kill()
                with serve_it():
                    for each in done:
                        each.result()
                assert client.statistics.retries >= 2  # each stream was in the middle of it
        for whole in answers:
            np.testing.assert_array_equal(np.concatenate(whole), table)


class TestGrpc(TransportTests):
    pass


class TestHttp(TransportTests):
    transport = "http"
    travels_by = "http"

    def test_what_is_too_large_for_it_goes_another_way(self, there: Endpoint) -> None:
        batch = np.random.default_rng(0).random((1, 1 + (64 << 20) // 4), np.float32)
        with self.client(there, "long") as client:
            answers = list(client.stream({"x": batch} for _ in range(2)))
        for answer in answers:
            np.testing.assert_array_equal(answer["y"], batch)

    def test_without_an_address_is_refused(self, there: Endpoint) -> None:
        with pytest.raises(ParameterError, match="HTTP address is not known; pass an Endpoint"):
            self.client(Endpoint(grpc=there.grpc), "echo")


class SharedMemoryTests(TransportTests):
    """What holds for shared memory, whatever the requests travel by."""

    def test_region_that_is_in_use_is_unregistered_later(self, there: Endpoint) -> None:
        import tritonclient.grpc as triton

        with triton.InferenceServerClient(there.grpc) as other:
            with self.client(there, "slow", max_in_flight=1) as client:
                client.infer({"x": np.full((1, 1), 1.5, np.float32)}).result()
                [region] = registered(there)
                # As a request whose answer has come, and which has not yet let go of its regions:
                # the client knows nothing of it.
                held = triton.InferInput("x", (1, 1), "FP32")
                held.set_shared_memory(region, 4)
                answers: SimpleQueue[Any] = SimpleQueue()
                other.async_infer(
                    "slow", [held], lambda result, error: answers.put((result, error))
                )
                time.sleep(0.2)
                started = time.monotonic()
            assert time.monotonic() - started < 1
            assert set(registered(there)) == {region}
            result, error = answers.get(timeout=10)
            assert error is None
            assert result.as_numpy("y").item() == 1.5
            wait_until(lambda: not registered(there), 2)

    def test_streams_that_are_left_keep_no_region(self, there: Endpoint) -> None:
        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            arrays["x"][...] = 0.2

        layout = RowLayout(shapes={"x": (1,)}, rows_per_request=1)
        with self.client(there, "slow", max_in_flight=2) as client:
            for _ in range(3):
                stream = client.stream_rows(read, range(9), layout)
                next(stream)
                stream.close()  # type: ignore[attr-defined]
            list(client.stream_rows(read, range(9), layout))
            assert len(registered(there)) <= 1
            suspended = client.stream_rows(read, range(9), layout)
            next(suspended)
        wait_until(lambda: not registered(there))

    def test_streams_share_a_ring_that_is_as_large_as_they_need(self, there: Endpoint) -> None:
        table = np.random.default_rng(0).random((3000, 4), np.float32)

        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            arrays["x"][...] = table[begin:end]

        def rows(n: int, layout: RowLayout) -> dict[str, int]:
            answers = [r["y"].copy() for r in client.stream_rows(read, range(n), layout)]
            np.testing.assert_array_equal(np.concatenate(answers), table[:n])
            return registered(there)

        for per_request in (1, 8):
            layout = RowLayout(shapes={"x": (4,)}, rows_per_request=per_request)
            with self.client(there, "echo") as client:
                small = rows(5, layout)
                assert len(small) == 1
                assert set(small.values()) == {4096}
                assert [rows(n, layout) for n in (1, 8, 3)] == [small] * 3
                large = rows(3000, layout)
                assert len(large) == 1
                assert large != small
                assert [rows(n, layout) for n in (5, 2048, 3000)] == [large] * 3

    def test_closed_client_holds_no_memory(self, there: Endpoint) -> None:
        before = mapped()
        kept = []
        for _ in range(3):
            with self.client(there, "echo") as client:
                futures = [client.infer({"x": np.zeros((8, 4), np.float32)}) for _ in range(9)]
                list(client.stream({"x": np.zeros((8, 4), np.float32)} for _ in range(9)))
                assert mapped() > before
            kept += [client, *futures]
        wait_until(lambda: mapped() == before)

    def test_a_server_that_forgets_regions_costs_no_descriptors(self, there: Endpoint) -> None:
        def read(begin: int, end: int, arrays: Mapping[str, NDArray[Any]]) -> None:
            arrays["x"][...] = 1

        def has_let_go() -> bool:
            # Triton may hold on to a region for a moment after the answer; it is asked again at
            # the next occasion, of which there need not be one.
            client._session.transport._regions.unregister()  # type: ignore[attr-defined]
            # A slot for each request in flight, and the ring of the last stream of rows.
            return len(registered(there)) <= client.max_in_flight + 1

        def use_and_count() -> int:
            # As after a restart: the next requests fail, and are sent again in new regions.
            for name in registered(there):
                server.unregister_system_shared_memory(name)
            list(client.stream([{"x": np.ones((8, 4), np.float32)}] * 9))
            list(client.stream_rows(read, range(64), layout))
            wait_until(has_let_go)
            return len(os.listdir("/proc/self/fd")) - len(registered(there))  # noqa: PTH208

        import tritonclient.grpc as triton

        layout = RowLayout(shapes={"x": (4,)}, rows_per_request=8)
        gc.disable()  # it would free what errors keep, at some time
        try:
            with (
                triton.InferenceServerClient(there.grpc) as server,
                self.client(there, "echo") as client,
            ):
                counts = [use_and_count() for _ in range(8)]
        finally:
            gc.enable()
        assert counts[-1] <= counts[1] + 2, counts


class TestSharedMemory(SharedMemoryTests):
    transport = "auto"
    travels_by = "shm"

    def test_is_called_over_http(self, there: Endpoint) -> None:
        with self.client(there, "echo") as client:
            assert isinstance(wire_of(client), HttpCarrier)


class TestSharedMemoryWithoutHttp(SharedMemoryTests):
    transport = "shm"
    travels_by = "shm"
    with_http = False

    def test_is_called_over_grpc(self, there: Endpoint, endpoint: Endpoint) -> None:
        assert endpoint.http is not None
        if int(endpoint.grpc.rpartition(":")[2]) - int(endpoint.http.rpartition(":")[2]) == 1:
            return  # neighbours by chance: found, as it should be
        with self.client(there, "echo") as client:
            assert isinstance(wire_of(client), GrpcCarrier)


class OnSockets:
    """The server listens on Unix sockets, not on ports."""

    @pytest.fixture
    def endpoint(self, endpoint_on_sockets: Endpoint) -> Endpoint:
        return endpoint_on_sockets

    @contextmanager
    def serving(self, repository: Path, image: Path | None, log: Path) -> Iterator[Serving]:
        assert image is None, f"{log} would be of a container"
        with socket_directory() as directory:
            yield lambda: serve_on_sockets(repository, directory)


class TestGrpcOnSockets(OnSockets, TestGrpc):
    pass


class TestHttpOnSockets(OnSockets, TestHttp):
    pass


class TestSharedMemoryOnSockets(OnSockets, TestSharedMemory):
    pass


class InContainer:
    """The server is in a container, which shares the host's ``/dev/shm``."""

    @pytest.fixture
    def image(self, triton_image: Path) -> Path:
        return triton_image

    @pytest.fixture
    def endpoint(self, endpoint_in_container: Endpoint) -> Endpoint:
        return endpoint_in_container


@pytest.mark.container
class TestSharedMemoryWithContainer(InContainer, TestSharedMemory):
    pass


@pytest.mark.container
class TestSharedMemoryWithContainerWithoutHttp(InContainer, TestSharedMemoryWithoutHttp):
    pass


def test_http_service_at_the_usual_port_is_found(repository: Path, triton_home: Path) -> None:
    while True:
        ports = some_ports()
        ports = dataclasses.replace(ports, http=ports.grpc - 1)
        if ports.metrics != ports.http:
            break
    with (
        serve(repository, ports=ports, wait=True) as server,
        InferenceClient(server.endpoint.grpc, "echo") as client,
    ):
        assert isinstance(wire_of(client), HttpCarrier)
        assert client.infer({"x": np.zeros((1, 4), np.float32)}).result()["y"].shape == (1, 4)


def test_http_service_at_the_usual_socket_is_found(endpoint_on_sockets: Endpoint) -> None:
    with InferenceClient(endpoint_on_sockets.grpc, "echo") as client:
        assert client.transport == "shm"
        assert isinstance(wire_of(client), HttpCarrier)
        assert client.infer({"x": np.zeros((1, 4), np.float32)}).result()["y"].shape == (1, 4)


def test_http_service_of_another_server_is_not_taken(
    endpoint: Endpoint, repository: Path, triton_home: Path
) -> None:
    with serve(repository, ports="auto", wait=True) as other:
        mixed = dataclasses.replace(endpoint, http=other.endpoint.http)
        with pytest.raises(ParameterError, match="does not answer as this server"):
            InferenceClient(mixed, "echo", transport="http")
        with InferenceClient(mixed, "echo", transport="shm") as client:
            assert isinstance(wire_of(client), GrpcCarrier)
            assert client.infer({"x": np.zeros((1, 4), np.float32)}).result()["y"].shape == (1, 4)


@pytest.mark.parametrize("transport", ["shm", "http", "grpc"])
def test_a_client_that_does_nothing_does_not_keep_a_server_from_stopping(
    transport: Any, repository: Path, triton_home: Path
) -> None:
    with ExitStack() as later:
        # Less than the half minute for which Triton waits for a connection.
        with serve(repository, ports="auto", wait=True, stop_timeout_s=20) as instance:
            client = InferenceClient(instance.endpoint, "echo", transport=transport)
            later.enter_context(client)
            client.infer({"x": np.zeros((1, 4), np.float32)}).result()
        assert instance.exit_code == 0


@pytest.mark.parametrize(
    ("row", "rows_per_request", "requests"),
    [((1,), 1, 1024), ((1,), 1 << 16, 4), ((512, 512), 1, 1), ((1024, 1024), 4, 1)],
)
def test_a_read_is_large_but_not_of_very_many_requests(
    row: tuple[int, ...], rows_per_request: int, requests: int
) -> None:
    layout = RowLayout(shapes={"x": row}, rows_per_request=rows_per_request)
    assert requests_of_a_read(layout, {"x": np.dtype(np.float32)}) == requests


def test_what_is_sent_as_the_client_closes_ends(endpoint: Endpoint) -> None:
    with open_channel(endpoint) as channel:
        carrier = GrpcCarrier(
            channel,
            lambda *_: RequestError(
                model="echo", address=endpoint.grpc, status="INTERNAL", reason="the answer"
            ),
        )
        carrier.send(b"", 10)
        wait_until(carrier.is_quiet)
        carrier.close()
        call = carrier.send(b"", 10)
        wait_until(call.is_done)
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "hermes-grpc"])


def test_unknown_transport_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ParameterError, match="none of 'auto', 'grpc', 'http', 'shm'"):
        InferenceClient(endpoint, "echo", transport="pigeon")  # type: ignore[arg-type]


def test_shared_memory_is_given_up_with_a_warning_where_it_cannot_be_had(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit[1]))  # as a full /dev/shm
    try:
        with pytest.raises(ParameterError, match="no shared memory on this host: "):
            InferenceClient(endpoint, "echo", transport="shm")
        with InferenceClient(endpoint, "echo") as client:
            assert client.transport == "http"
        assert "no shared memory on this host: " in caplog.text
        with InferenceClient(endpoint.grpc, "echo") as client:
            assert client.transport == "grpc"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)


def test_a_link_on_which_the_first_packet_is_lost_is_only_slow() -> None:
    def accept() -> None:
        server.accept()[0].close()

    def connection() -> socket.socket:
        connection = carrier.send(b"", 5.0).release()
        assert connection is not None
        return connection

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)  # Linux completes one connection, and drops what asks for another
        address = f"127.0.0.1:{server.getsockname()[1]}"
        carrier = HttpCarrier(address, functools.partial(RequestError, "echo", address))
        with connection():
            accepting = threading.Timer(0.5, accept)
            accepting.start()
            with connection() as late:
                assert late.getpeername() == server.getsockname()
            accepting.join()


def test_a_call_that_failed_is_freed_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    carrier = HttpCarrier(
        address,
        lambda status, reason: RequestError(
            model="echo", address=address, status=status, reason=reason
        ),
    )
    gc.disable()
    try:
        call = carrier.send(b"", 1)
        with contextlib.suppress(RequestError):
            call.answer()
        freed = weakref.ref(call)
        del call
        assert freed() is None
    finally:
        gc.enable()


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_has_is_not() -> None:
    with python("import time; time.sleep(60)") as process:
        left = SHARED_MEMORY / f"{PREFIX}{ProcessIdentity.of(process.pid)}-0123456789ab"
        left.touch()
        assert left.name not in sweep_regions()
        process.kill()
        process.wait()
        sweep_regions()  # or another process of this user has done it by now
        assert not left.exists()
    odd = SHARED_MEMORY / f"{PREFIX}of-somebody"
    odd.touch()
    try:
        assert odd.name not in sweep_regions()
    finally:
        odd.unlink()
