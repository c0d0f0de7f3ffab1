"""What `InferenceClient` does, whatever way its requests travel."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from hermes.aeriel._credentials import reachable_name
from hermes.aeriel.client import Endpoint, InferenceClient
from hermes.aeriel.serve import serve
from hermes.errors import (
    InputError,
    ModelLoadError,
    ModelNotFoundError,
    ParameterError,
    RequestError,
    ServerTimeoutError,
)
from tests.helpers import (
    DOES_NOT_LOAD,
    ECHO,
    listening,
    python,
    server_pid,
    some_ports,
    write_model,
)

TYPES = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT16": np.array([-1, 1], np.int16),
    "INT64": np.array([-(2**63), 1], np.int64),
    "FP16": np.array([0.5, 65504], np.float16),
    "FP32": np.array([np.nan, np.inf], np.float32),
    "FP64": np.array([1e-300, -0.0]),
    "STRING": np.array([b"", "ü\n\0".encode()], object),
}

EVERY_TYPE = """
    def answer(self, request):
        return response(**{"y_" + name: array(request, name) for name in %r})
"""

SUM_AND_DIFFERENCE = """
    def answer(self, request):
        a, b = array(request, "a"), array(request, "b")
        return response(sum=a + b, difference=a - b)
"""

TAKES_ITS_TIME = """
    def answer(self, request):
        started = time.monotonic()
        x = array(request, "x")
        time.sleep(float(x.max()))
        return response(y=x, ran=np.array([[started, time.monotonic()]]))
"""

WANTS_POSITIVE = """
    def answer(self, request):
        x = array(request, "x")
        if x.min() < 0:
            error = pb_utils.TritonError(f"{x.min():g} is negative")
            return pb_utils.InferenceResponse(error=error)
        return response(y=x)
"""

MEAN = """
    def answer(self, request):
        return response(y=array(request, "x").mean(axis=1, keepdims=True))
"""

SAYS_ITS_VERSION = """
    def initialize(self, args):
        self.version = float(args["model_version"])

    def answer(self, request):
        return response(y=0 * array(request, "x") + self.version)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that are small, but each awkward in a way of its own."""
    path = tmp_path_factory.mktemp("models")
    values = {"x": ("FP32", [-1])}
    write_model(path, "echo", ECHO, inputs=values)
    write_model(
        path,
        "types",
        EVERY_TYPE % list(TYPES),
        inputs={name: (name, [-1]) for name in TYPES},
        outputs={f"y_{name}": (name, [-1]) for name in TYPES},
        max_batch_size=0,
    )
    two = ("FP32", [2])
    write_model(
        path,
        "pair",
        SUM_AND_DIFFERENCE,
        inputs={"a": two, "b": two},
        outputs={"sum": two, "difference": two},
    )
    write_model(
        path,
        "slow",
        TAKES_ITS_TIME,
        outputs={"y": ("FP32", [1]), "ran": ("FP64", [2])},
        max_batch_size=1,
        config="instance_group [{ count: 4, kind: KIND_CPU }]",
    )
    write_model(path, "positive", WANTS_POSITIVE, inputs=values)
    write_model(path, "mean", MEAN, inputs={"x": ("FP32", [1 << 20])}, outputs={"y": ("FP32", [1])})
    write_model(path, "broken", DOES_NOT_LOAD)
    write_model(path, "versions", SAYS_ITS_VERSION, config="version_policy { all {} }")
    (path / "versions" / "7").symlink_to("1")
    return path


@pytest.fixture(scope="module")
def endpoint(triton_home: Path, repository: Path) -> Iterator[Endpoint]:
    """A server under explicit model control, which loads what it is asked for."""
    flags = ["--model-control-mode=explicit"]
    with serve(repository, ports="auto", server_args=flags, wait=True, timeout_s=60) as instance:
        yield instance.endpoint


def column(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]


def executions(endpoint: Endpoint, model: str) -> int:
    """Return how many requests the server has answered for a model.

    It counts a request a moment after it has answered it.
    """
    counts = [-1, -2]
    client: Any
    with InferenceServerClient(endpoint.grpc) as client:
        while counts[-1] != counts[-2]:
            time.sleep(0.1)
            [statistics] = client.get_inference_statistics(model).model_stats
            counts.append(int(statistics.inference_count))
    return counts[-1]


def test_a_process_that_may_open_no_more_files_says_so_at_once() -> None:
    program = """
import os, resource
from hermes.aeriel.client import InferenceClient
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(57)]
InferenceClient("127.0.0.1:1", "echo", retry_for_s=60)
"""
    with python(program) as process:
        _, said = process.communicate(timeout=30)
    assert "open files of at most 64" in said
    assert "ulimit -n" in said


def test_answer_is_a_future_of_arrays_by_name(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "echo") as client:
        future = client.infer({"x": column(1, 2)})
        assert isinstance(future, Future)
        result = future.result(30)
    assert set(result) == {"y"}
    assert result["y"].dtype == np.float32
    np.testing.assert_array_equal(result["y"], column(1, 2))


def test_address_may_be_a_string(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint.grpc, "echo", 1) as client:
        assert client.address == endpoint.grpc
        assert client.server_version.startswith("2.")
        assert client.specification.name == "echo"
        assert client.specification.inputs["x"].shape == (-1,)
        assert client.specification.max_batch_size == 8


def test_another_server_at_the_address_is_not_believed(endpoint: Endpoint) -> None:
    other = replace(endpoint, server_id="hermes-of-yesterday")
    with pytest.raises(RequestError, match=r"another server answers at this address: 'hermes-"):
        InferenceClient(other, "echo", timeout_s=5, retry_for_s=1)
    with InferenceClient(replace(endpoint, server_id=None), "echo"):
        pass


def test_every_data_type_arrives_as_it_was_sent_without_a_batch_dimension(
    endpoint: Endpoint,
) -> None:
    with InferenceClient(endpoint, "types") as client:
        result = client.infer(TYPES).result(30)
    for name, sent in TYPES.items():
        assert result[f"y_{name}"].dtype == sent.dtype
        np.testing.assert_array_equal(result[f"y_{name}"], sent)


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_length_of_a_dynamic_dimension_is_kept(length: int, endpoint: Endpoint) -> None:
    sent = {name: np.resize(array, length) for name, array in TYPES.items()}
    with InferenceClient(endpoint, "types") as client:
        result = client.infer(sent).result(30)
    assert {array.shape for array in result.values()} == {(length,)}
    np.testing.assert_array_equal(result["y_STRING"], sent["STRING"])


@pytest.mark.parametrize("dtype", ["S", "U"])
def test_numpy_strings_are_sent_as_bytes(dtype: str, endpoint: Endpoint) -> None:
    strings = np.array(["a", "bcd"], dtype)
    with InferenceClient(endpoint, "types") as client:
        result = client.infer({**TYPES, "STRING": strings}).result(30)
    assert result["y_STRING"].tolist() == [b"a", b"bcd"]


def test_array_of_any_layout_is_sent_as_it_looks(endpoint: Endpoint) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    with InferenceClient(endpoint, "echo") as client:
        for view in (array.T, array[::2, ::-1], np.asfortranarray(array)):
            np.testing.assert_array_equal(client.infer({"x": view}).result(30)["y"], view)


def test_array_may_be_changed_once_it_was_given(endpoint: Endpoint) -> None:
    buffer = np.zeros((1, 1000), np.float32)
    futures = []
    with InferenceClient(endpoint, "echo") as client:
        for number in range(20):
            buffer[:] = number
            futures.append(client.infer({"x": buffer}))
        buffer[:] = -1
        answers = [future.result(30)["y"] for future in futures]
    assert [float(answer.min()) for answer in answers] == list(range(20))
    assert [float(answer.max()) for answer in answers] == list(range(20))


@pytest.mark.parametrize("outputs", [None, ["sum"], ["difference", "sum"]])
def test_outputs_are_all_or_those_asked_for(outputs: list[str] | None, endpoint: Endpoint) -> None:
    pair = {"a": np.ones((3, 2), np.float32), "b": np.full((3, 2), 2, np.float32)}
    with InferenceClient(endpoint, "pair", outputs=outputs) as client:
        result = client.infer(pair).result(30)
    assert set(result) == set(outputs or ["sum", "difference"])
    np.testing.assert_array_equal(result["sum"], np.full((3, 2), 3))


def test_output_that_the_model_lacks_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ParameterError, match=r"no output 'z'; it has \['difference', 'sum'\]"):
        InferenceClient(endpoint, "pair", outputs=["sum", "z"])


def test_less_than_one_request_in_flight_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ParameterError, match="max_in_flight"):
        InferenceClient(endpoint, "echo", max_in_flight=0)


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.zeros((1, 2))},
        {"x": np.zeros((9, 2), np.float32)},
        {"x": np.zeros(2, np.float32)},
        {"z": np.zeros((1, 2), np.float32)},
        {},
    ],
    ids=["dtype", "rows", "rank", "name", "nothing"],
)
def test_what_does_not_fit_raises_before_it_is_sent(inputs: Any, endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "echo") as client:
        before = executions(endpoint, "echo")
        with pytest.raises(InputError, match="model 'echo': given"):
            client.infer(inputs)
        with pytest.raises(InputError):
            list(client.stream([inputs]))
        assert executions(endpoint, "echo") == before
        assert client.infer({"x": column(1)}).result(30)


def test_stream_gives_results_in_order_whatever_order_they_come_in(endpoint: Endpoint) -> None:
    delays = np.random.default_rng(0).uniform(0, 0.05, 60).astype(np.float32)
    with InferenceClient(endpoint, "slow") as client:
        assert client.max_in_flight == 4 + 2
        results = list(client.stream({"x": column(delay)} for delay in delays))

    np.testing.assert_array_equal(np.concatenate([r["y"] for r in results])[:, 0], delays)
    ended = np.concatenate([result["ran"] for result in results])[:, 1]
    assert np.any(np.diff(ended) < 0), "they came in order by themselves"


def test_stream_of_nothing_is_nothing(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "echo") as client:
        assert list(client.stream([])) == []


def test_requests_in_flight_are_bounded_on_the_server_and_in_what_is_read_ahead(
    endpoint: Endpoint,
) -> None:
    read = 0

    def batches() -> Iterator[dict[str, NDArray[np.float32]]]:
        nonlocal read
        for _ in range(20):
            read += 1
            yield {"x": column(0.03)}

    spans = []
    with InferenceClient(endpoint, "slow", max_in_flight=2) as client:
        for number, result in enumerate(client.stream(batches())):
            assert read <= number + 1 + 2
            spans.append(result["ran"][0])

    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = np.cumsum([change for _, change in events])
    assert running.max() == 2


def test_one_request_more_than_allowed_waits_for_a_place(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "slow", max_in_flight=2) as client:
        first = [client.infer({"x": column(0.3)}) for _ in range(2)]
        assert not any(future.done() for future in first)
        third = client.infer({"x": column(0)})
        assert any(future.done() for future in first)
        wait([*first, third])


def test_error_belongs_to_its_request(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "positive") as client:
        futures = [client.infer({"x": column(x)}) for x in (1, -2, 3, -4, 5)]
        for x, future in zip((1, -2, 3, -4, 5), futures, strict=True):
            if x > 0:
                assert future.result(30)["y"] == x
            else:
                with pytest.raises(RequestError, match=f"'positive' at .*: {x} is negative"):
                    future.result(30)
        assert (client.statistics.requests, client.statistics.failures) == (3, 2)


def test_stream_ends_at_the_first_error_after_the_results_before_it(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "positive") as client:
        stream = client.stream({"x": column(x)} for x in (1, 2, -3, 4, -5, 6))
        assert [next(stream)["y"].item() for _ in range(2)] == [1, 2]
        with pytest.raises(RequestError, match="-3 is negative"):
            next(stream)
        assert client.infer({"x": column(7)}).result(30)["y"] == 7


def test_error_of_the_callers_own_data_passes_through_the_stream(endpoint: Endpoint) -> None:
    def batches() -> Iterator[dict[str, NDArray[np.float32]]]:
        yield {"x": column(1)}
        raise KeyError("mine")

    with InferenceClient(endpoint, "echo") as client, pytest.raises(KeyError, match="mine"):
        list(client.stream(batches()))


def test_stream_that_is_left_early_gives_its_places_back(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "slow", max_in_flight=2) as client:
        for _ in range(5):
            stream = client.stream({"x": column(0.01)} for _ in range(100))
            next(iter(stream))
            stream.close()  # type: ignore[attr-defined]
        assert client.infer({"x": column(0)}).result(5)


def test_block_that_ends_well_waits_for_its_answers(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "slow") as client:
        future = client.infer({"x": column(0.2)})
    assert future.result(0)["y"] == np.float32(0.2)


def test_block_that_ends_with_an_error_does_not_wait(endpoint: Endpoint) -> None:
    futures: list[Future[Any]] = []

    def work() -> None:
        with InferenceClient(endpoint, "slow", max_in_flight=2) as client:
            futures.extend(client.infer({"x": column(1.5)}) for _ in range(2))
            raise KeyError("mine")

    started = time.monotonic()
    with pytest.raises(KeyError, match="mine"):
        work()
    assert time.monotonic() - started < 1.2
    assert [future.done() for future in futures] == [True, True]


def test_threads_may_share_a_client(endpoint: Endpoint) -> None:
    found: dict[int, list[float]] = {}

    def work(client: InferenceClient, start: int) -> None:
        batches = ({"x": column(start + number)} for number in range(50))
        found[start] = [float(result["y"].item()) for result in client.stream(batches)]

    with InferenceClient(endpoint, "echo", max_in_flight=3) as client:
        threads = [threading.Thread(target=work, args=(client, 100 * n)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {start: [start + n for n in range(50)] for start in (0, 100, 200)}


def test_statistics_say_what_was_done(endpoint: Endpoint) -> None:
    with InferenceClient(endpoint, "slow") as client:
        for _ in client.stream([{"x": column(0.05)}] * 6):
            pass
        done = client.statistics
    assert (done.requests, done.rows, done.failures, done.retries) == (6, 6, 0, 0)
    assert done.megabytes == pytest.approx(6 * (4 + 4 + 16) / 1e6)
    assert 0.05 <= done.seconds < 5
    assert 49 < done.latency_ms(0.0) <= done.latency_ms(1.0) < 5e3


def test_model_that_is_not_loaded_is_asked_for(endpoint: Endpoint) -> None:
    triton: Any
    with InferenceServerClient(endpoint.grpc) as triton:
        triton.unload_model("mean")
        while triton.is_model_ready("mean"):
            time.sleep(0.05)
        with InferenceClient(endpoint, "mean"):
            assert triton.is_model_ready("mean")


def test_version_is_the_one_that_was_asked_for(endpoint: Endpoint) -> None:
    for version, answer in ((1, 1), ("7", 7), ("", 7)):
        with InferenceClient(endpoint, "versions", version) as client:
            assert client.infer({"x": column(0)}).result(30)["y"] == answer


@pytest.mark.parametrize("version", [3, "x"])
def test_version_that_there_is_not_is_an_error_with_those_there_are(
    version: int | str, endpoint: Endpoint
) -> None:
    with InferenceClient(endpoint, "versions"):
        pass
    with pytest.raises(ModelNotFoundError) as caught:
        InferenceClient(endpoint, "versions", version)
    assert f"'versions version {version}'" in str(caught.value)
    assert "versions version 1, versions version 7" in str(caught.value)


def test_model_that_there_is_not_is_an_error_with_those_there_are(endpoint: Endpoint) -> None:
    with pytest.raises(ModelNotFoundError, match=f"{endpoint.grpc} has no model 'ecko'") as caught:
        InferenceClient(endpoint, "ecko")
    assert "echo" in caught.value.available


def test_model_that_does_not_load_is_an_error_with_the_reason(endpoint: Endpoint) -> None:
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="its weights are missing"):
            InferenceClient(endpoint, "broken")


def test_address_without_a_server_is_an_error_after_the_deadline() -> None:
    address = f"127.0.0.1:{some_ports().grpc}"
    started = time.monotonic()
    with pytest.raises(ServerTimeoutError, match=address):
        InferenceClient(address, "echo", retry_for_s=1)
    assert 0.5 < time.monotonic() - started < 5


def test_a_wait_for_a_server_is_told(caplog: pytest.LogCaptureFixture) -> None:
    address = f"127.0.0.1:{some_ports().grpc}"
    with pytest.raises(ServerTimeoutError):
        InferenceClient(address, "echo", retry_for_s=5)
    assert caplog.messages == [f"the server at {address} does not answer; waiting up to 5 s"]


def test_address_that_never_answers_is_an_error_after_the_deadline() -> None:
    started = time.monotonic()
    with listening() as port, pytest.raises(ServerTimeoutError, match="was not ready after 1 s"):
        InferenceClient(f"127.0.0.1:{port}", "echo", timeout_s=0.5, retry_for_s=1)
    assert time.monotonic() - started < 5


def test_proxy_that_the_environment_names_is_not_asked_for_this_host(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with InferenceClient(endpoint, "echo", retry_for_s=5) as client:
        assert client.infer({"x": column(1)}).result(5)["y"] == 1


# Of no host: it is for documentation (RFC 5737).
ELSEWHERE = "192.0.2.77:8001"


class Refusal(BaseHTTPRequestHandler):
    """Answers of a web server that has nothing, and of a proxy that lets nobody out."""

    def do_GET(self) -> None:
        self.send_error(404)

    def do_CONNECT(self) -> None:
        self.server.connected_to.append(self.path)  # type: ignore[attr-defined]
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def web_server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        server.connected_to = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_web_server_or_proxy_at_the_address_is_said_at_once(
    web_server: ThreadingHTTPServer,
) -> None:
    address = f"127.0.0.1:{web_server.server_port}"
    problem = f"{address} speaks HTTP/1: Triton's HTTP port, a web server or a proxy; give the GRPC"
    with pytest.raises(ParameterError, match=problem):
        InferenceClient(address, "echo")


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_only_the_proxy_for_grpc_is_asked_and_for_other_hosts_alone(
    web_server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{web_server.server_port}")
    for host in ("127.0.0.1", reachable_name()):
        with pytest.raises(ServerTimeoutError):
            InferenceClient(f"{host}:{some_ports().grpc}", "echo", retry_for_s=0.5)
    connected_to: list[str] = web_server.connected_to  # type: ignore[attr-defined]
    assert connected_to == []
    refused = (ParameterError, "the proxy of grpc_proxy does not connect to 192.0.2.77:8001; unset")
    unreached = (ServerTimeoutError, "was not ready")
    error, problem = refused if variable == "grpc_proxy" else unreached
    with pytest.raises(error, match=problem):
        InferenceClient(ELSEWHERE, "echo", timeout_s=0.5, retry_for_s=1)
    assert set(connected_to) == ({ELSEWHERE} if variable == "grpc_proxy" else set())


def test_server_that_was_killed_and_came_back_is_no_gap_in_the_stream(
    triton_home: Path, tmp_path: Path
) -> None:
    repository = write_model(tmp_path, "echo", ECHO)
    ports = some_ports()
    with contextlib.ExitStack() as later:
        with serve(repository, ports=ports, wait=True, timeout_s=60) as instance:
            client = later.enter_context(InferenceClient(instance.endpoint, "echo"))
            stream = client.stream({"x": column(number)} for number in range(300))
            results = [next(stream)["y"].item() for _ in range(100)]
            os.kill(server_pid(instance.server_id), signal.SIGKILL)
        later.enter_context(serve(repository, ports=ports))
        results += [result["y"].item() for result in stream]
        assert client.statistics.retries > 0
        assert client.statistics.failures == 0
    assert results == list(range(300))


# Not getrusage's peak, which begins with that of the process that started this one.
STREAM_OF_2_GB = """
import re, sys
from pathlib import Path
import numpy as np
from hermes.aeriel.client import InferenceClient

def batches():
    for number in range(512):
        yield {"x": np.full((1, 1 << 20), number, np.float32)}

with InferenceClient(sys.argv[1], "mean") as client:
    for number, result in enumerate(client.stream(batches())):
        assert result["y"].item() == number
assert number == 511
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(client.statistics.megabytes, int(peak_kb[1]) / 1024)
"""


def test_memory_does_not_grow_with_the_stream(endpoint: Endpoint) -> None:
    with python(STREAM_OF_2_GB, endpoint.grpc) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    megabytes, peak = map(float, output.split())
    assert megabytes > 2000
    assert peak < 400
