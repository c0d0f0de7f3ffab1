"""A process that was forked from one with a client has all of it for itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.aeriel.client import Endpoint
from hermes.aeriel.serve import serve
from tests.helpers import DOUBLE, python, write_model
from tests.stateful import BATCHING, RUNNING_SUM

SLOW = """
    def answer(self, request):
        time.sleep(float(array(request, "x").max()))
        return response(y=array(request, "x"))
"""

TRANSPORTS = ["shm", "http", "grpc"]

# Every program is a process of its own: a fork of the tests' process would have their threads.
BEGIN = """
import gc, multiprocessing, os, sys, threading, time, warnings
from pathlib import Path
import numpy as np
from hermes.aeriel.client import Endpoint, InferenceClient, RowLayout
from hermes.errors import RequestError

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, from Python 3.12 on
endpoint, transport = Endpoint.read(Path(sys.argv[1])), sys.argv[2]

def batch(value):
    return {"x": np.full((2, 4), value, np.float32)}

def check(client, first):
    values = [r["y"][0, 0] for r in client.stream(batch(first + n) for n in range(50))]
    assert values == [2 * (first + n) for n in range(50)], values

def forked(function):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            sys.excepthook(*sys.exc_info()) if code else None
            sys.stderr.flush()
            os._exit(code)
    return pid

def wait_for(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

"""

POOL = """
client = InferenceClient(endpoint, "double", transport=transport)
check(client, 0)

def work(number):
    check(client, 1000 * number)
    assert client.infer(batch(number)).result()["y"][0, 0] == 2 * number
    assert client.statistics.requests == 51
    return client.transport

with multiprocessing.get_context("fork").Pool(4) as pool:
    results = [pool.apply_async(work, (number,)) for number in range(1, 5)]
    check(client, 9000)
    assert {result.get(60) for result in results} == {transport}
check(client, 0)
client.close()
"""

# Other threads hold locks of the client, of gRPC and of the interpreter at any moment.
BUSY = """
client = InferenceClient(endpoint, "double", transport=transport)
ending = threading.Event()

def busy(number):
    while not ending.is_set():
        check(client, number)

threads = [threading.Thread(target=busy, args=(100 * n,), daemon=True) for n in range(3)]
for thread in threads:
    thread.start()
for number in range(10):
    wait_for(forked(lambda: check(client, 1000 * number)))
ending.set()
for thread in threads:
    thread.join()
client.close()
"""

IN_A_CALL = """
client = InferenceClient(endpoint, "slow", transport=transport)
future = client.infer(batch(4))
time.sleep(0.5)

def use():
    try:
        client.infer(batch(0))
    except RequestError as error:
        assert "forked while requests were in flight" in str(error)
    else:
        assert transport != "grpc"  # the others' requests are not of gRPC

begun = time.monotonic()
pid = forked(use)
assert time.monotonic() - begun < 3
wait_for(pid)
assert future.result()["y"][0, 0] == 4
client.close()
"""

# The region that the parent's next request lies in is the one before.
LEFT = """
with InferenceClient(endpoint, "double", transport=transport, retry_for_s=0) as client:
    check(client, 0)
    stream = client.stream(batch(n) for n in range(9))
    next(stream)

    def leave():
        global client, stream
        client.close()
        assert client.statistics.requests == 0
        try:
            client.infer(batch(0))
        except RequestError as error:
            assert "the client was closed" in str(error)
        del client, stream
        gc.collect()

    wait_for(forked(leave))
    pid = os.fork()
    if pid == 0:
        sys.exit()  # out of the block, and through the interpreter's own end
    wait_for(pid)
    assert [r["y"][0, 0] for r in stream] == [2.0 * n for n in range(1, 9)]
    check(client, 0)
    assert client.statistics.retries == 0
"""

RESUMED = """
read_by = []

def read(begin, end, arrays):
    read_by.append(os.getpid())
    arrays["x"][...] = np.arange(begin, end)[:, None]

layout = RowLayout(shapes={"x": (100_000,)}, rows_per_request=1)
client = InferenceClient(endpoint, "wide", transport=transport)
rows = client.stream_rows(read, range(40), layout)
batches = client.stream({"x": np.full((1, 100_000), n, np.float32)} for n in range(40))
streams = [rows, batches]
first = [next(stream)["y"][0, 0].copy() for stream in streams]

def resume():
    read_by.clear()
    for stream in streams:
        try:
            next(stream)
        except RequestError as error:
            assert "the stream was started in the parent process, before a fork" in str(error)
        else:
            raise AssertionError
    assert read_by == []

wait_for(forked(resume))
for one, stream in zip(first, streams):
    assert [one, *(r["y"][0, 0].copy() for r in stream)] == [2.0 * n for n in range(40)]
client.close()
"""

SEQUENCE = """
client = InferenceClient(endpoint, "sum", transport=transport)
updates = [{"x": np.full((1, 1), n, np.float32)} for n in range(9)]
sums = [float(n * (n + 1) // 2) for n in range(9)]
with client.sequence() as sequence:
    stream = sequence.stream(updates)
    first = [next(stream)["y"].item() for _ in range(3)]

    def go_on():
        for begun in (stream, sequence.stream(updates)):
            try:
                next(begun)
            except RequestError as error:
                assert "start a new one in this process" in str(error)
            else:
                raise AssertionError
        with client.sequence() as another:
            assert [r["y"].item() for r in another.stream(updates)] == sums

    wait_for(forked(go_on))
    assert first + [r["y"].item() for r in stream] == sums
client.close()
"""

HELD = """
client = InferenceClient(endpoint, "double", transport=transport)
check(client, 0)
pid = forked(lambda: time.sleep(60))
print(pid, flush=True)
check(client, 0)
client.close()
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_model(models, "double", DOUBLE, inputs={"x": ("FP32", [4])})
    write_model(models, "slow", SLOW, inputs={"x": ("FP32", [4])})
    write_model(models, "wide", DOUBLE, inputs={"x": ("FP32", [-1])}, outputs={"y": ("FP32", [-1])})
    return write_model(models, "sum", RUNNING_SUM, max_batch_size=4, config=BATCHING)


@pytest.fixture(scope="module")
def endpoint(repository: Path, triton_home: Path) -> Iterator[Endpoint]:
    with serve(repository, ports="auto", wait=True) as instance:
        yield instance.endpoint


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(POOL, id="workers have their own answers, and so has the parent"),
        pytest.param(BUSY, id="whatever the parent's threads do"),
        pytest.param(IN_A_CALL, id="one of a parent that is inside of gRPC says so"),
        pytest.param(LEFT, id="what a child closes or drops is not the parent's"),
        pytest.param(RESUMED, id="a stream belongs to who has begun it"),
        pytest.param(SEQUENCE, id="a sequence belongs to who has begun it"),
    ],
)
def test_client_in_a_fork(program: str, transport: str, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.write(tmp_path / "endpoint")
    with python(BEGIN + program, tmp_path / "endpoint", transport) as process:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_child_that_does_nothing_does_not_keep_the_server_from_stopping(
    transport: str, repository: Path, triton_home: Path, tmp_path: Path
) -> None:
    # Less than the half minute for which Triton waits for a connection.
    with serve(repository, ports="auto", wait=True, stop_timeout_s=20) as instance:
        instance.endpoint.write(tmp_path / "endpoint")
        with python(BEGIN + HELD, tmp_path / "endpoint", transport) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            try:
                assert process.wait(60) == 0
                instance.stop()
                assert instance.exit_code == 0
            finally:
                os.kill(child, signal.SIGKILL)
