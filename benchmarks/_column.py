"""One column of the benchmark for one shape: streams a file's rows for a while, prints JSON.

    python _column.py COLUMN GRPC HTTP MODEL FILE BATCH SECONDS IN_FLIGHT

Runs in the environment of whatever it measures, which need not have hermes: each column imports
what it is about. All of them read the same file and keep every result in memory.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import deque
from pathlib import Path

import h5py
import numpy as np


def main():
    column, grpc, http, model, file, batch, seconds, in_flight = sys.argv[1:]
    with h5py.File(file) as opened:
        job = Job(grpc, http, model, opened["x"], int(batch), float(seconds), int(in_flight))
        COLUMNS[column](job)
        print(json.dumps(job.numbers()))


def peak_memory_mb():
    # Not getrusage's, which begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


class Job:
    def __init__(self, grpc, http, model, dataset, batch, seconds, in_flight):
        self.grpc, self.http, self.model = grpc, http, model
        self.dataset, self.batch, self.in_flight = dataset, batch, in_flight
        self.seconds = seconds
        self.latencies = []
        self.rows = 0
        self.started = self.ended = self.cpu = None

    def batches(self):
        """Yield the file's rows again and again until the time is over."""
        count = len(self.dataset) // self.batch
        number = 0
        self.start()
        while time.perf_counter() < self.started + self.seconds:
            begin = number % count * self.batch
            yield self.dataset[begin : begin + self.batch]
            number += 1

    def rows_read_ahead(self):
        """Yield the file's rows one by one from large reads, as hermes reads files."""
        self.start()
        per_read = max(1, (1 << 20) // (4 * self.dataset.shape[1]))
        while True:
            for begin in range(0, len(self.dataset), per_read):
                for row in self.dataset[begin : begin + per_read]:
                    if time.perf_counter() > self.started + self.seconds:
                        return
                    yield row[np.newaxis]

    def start(self):
        self.started = time.perf_counter()
        self.cpu = time.process_time()

    def took(self, rows, sent):
        self.ended = time.perf_counter()
        self.rows += rows
        self.latencies.append(self.ended - sent)

    def numbers(self):
        cpu = time.process_time() - self.cpu
        seconds = self.ended - self.started
        row_bytes = self.dataset.dtype.itemsize * int(np.prod(self.dataset.shape[1:]))
        return {
            "rows_per_s": self.rows / seconds,
            "megabytes_per_s": self.rows * row_bytes / seconds / 1e6,
            "p50_ms": 1e3 * float(np.percentile(self.latencies, 50)),
            "p99_ms": 1e3 * float(np.percentile(self.latencies, 99)),
            "peak_memory_mb": peak_memory_mb(),
            "cpu_s_per_million_rows": 1e6 * cpu / self.rows,
        }


def hermes_client(job, transport):
    from hermes.aeriel.client import Endpoint, InferenceClient, RowLayout
    from hermes.aeriel.files._reading import read_rows

    dataset = job.dataset
    layout = RowLayout(shapes={"x": dataset.shape[1:]}, rows_per_request=job.batch)

    def read(begin, end, arrays):
        # The file again and again, as one that does not end.
        first = begin % len(dataset)
        length = min(end - begin, len(dataset) - first)
        read_rows(dataset, first, first + length, arrays["x"][:length])
        if length < end - begin:
            read(begin + length, end, {"x": arrays["x"][length:]})

    endpoint = Endpoint(grpc=job.grpc, http=job.http)
    kept = []
    with InferenceClient(
        endpoint, job.model, transport=transport, max_in_flight=job.in_flight
    ) as client:
        job.start()
        for outputs in client.stream_rows(read, range(1 << 60), layout):
            kept.append(outputs["y"].copy())
            job.rows += len(kept[-1])
            job.ended = time.perf_counter()
            if job.ended > job.started + job.seconds:
                break
        statistics = client.statistics
    for bin_number, count in statistics.latencies.items():
        job.latencies += [1.02 ** (bin_number - 0.5)] * count


def hermes_sequence(job, transport):
    from hermes.aeriel.client import Endpoint, InferenceClient

    kept = []
    with (
        InferenceClient(
            Endpoint(grpc=job.grpc, http=job.http), job.model, transport=transport
        ) as client,
        client.sequence() as sequence,
    ):
        sent = time.perf_counter()
        for outputs in sequence.stream({"x": row} for row in job.rows_read_ahead()):
            kept.append(outputs["y"])
            job.took(len(kept[-1]), sent)
            sent = time.perf_counter()


def async_infer(job):
    """As a user would write it: a semaphore around tritonclient's async_infer."""
    import tritonclient.grpc as triton

    places = threading.Semaphore(job.in_flight)
    kept = {}

    def received(result, error, number, sent):
        if error is None:
            kept[number] = result.as_numpy("y")
        job.took(job.batch, sent)
        places.release()

    with triton.InferenceServerClient(job.grpc) as client:
        for number, batch in enumerate(job.batches()):
            places.acquire()
            tensor = triton.InferInput("x", batch.shape, "FP32")
            tensor.set_data_from_numpy(batch)
            sent = time.perf_counter()
            client.async_infer(
                job.model,
                [tensor],
                lambda result, error, number=number, sent=sent: received(
                    result, error, number, sent
                ),
            )
        for _ in range(job.in_flight):
            places.acquire()


def tritonclient_sequence(job):
    import tritonclient.grpc as triton

    kept = []
    with triton.InferenceServerClient(job.grpc) as client:
        starts = True
        for batch in job.batches():
            tensor = triton.InferInput("x", batch.shape, "FP32")
            tensor.set_data_from_numpy(batch)
            sent = time.perf_counter()
            result = client.infer(job.model, [tensor], sequence_id=7, sequence_start=starts)
            kept.append(result.as_numpy("y"))
            job.took(len(batch), sent)
            starts = False
        client.infer(job.model, [tensor], sequence_id=7, sequence_end=True)


def ml4gw_hermes(job):
    from hermes.aeriel.client import InferenceClient

    kept = []
    sent = {}
    client = InferenceClient(job.grpc, job.model, batch_size=job.batch)

    def take(wait):
        while (answer := client.get()) is None:
            if not wait:
                return False
            time.sleep(1e-4)
        result, request_id = answer[0], answer[1]
        kept.append(result)
        job.took(job.batch, sent.pop(request_id))
        return True

    with client:
        for number, batch in enumerate(job.batches()):
            # It has no bound of its own: without one its memory grows with the input.
            while len(sent) >= job.in_flight:
                take(wait=True)
            sent[number] = time.perf_counter()
            client.infer(batch, request_id=number)
        while sent:
            take(wait=True)


def pytriton(job):
    from pytriton.client import FuturesModelClient

    kept = []
    window = deque()

    def take():
        future, sent = window.popleft()
        kept.append(future.result()["y"])
        job.took(job.batch, sent)

    with FuturesModelClient(
        f"http://{job.http}", job.model, max_workers=job.in_flight, max_queue_size=job.in_flight
    ) as client:
        for batch in job.batches():
            if len(window) == job.in_flight:
                take()
            window.append((client.infer_batch(x=batch), time.perf_counter()))
        while window:
            take()


COLUMNS = {
    "hermes shm": lambda job: hermes_client(job, "shm"),
    "hermes http": lambda job: hermes_client(job, "http"),
    "hermes grpc": lambda job: hermes_client(job, "grpc"),
    "hermes shm sequence": lambda job: hermes_sequence(job, "shm"),
    "hermes http sequence": lambda job: hermes_sequence(job, "http"),
    "hermes grpc sequence": lambda job: hermes_sequence(job, "grpc"),
    "async_infer": async_infer,
    "async_infer sequence": tritonclient_sequence,
    "ml4gw-hermes": ml4gw_hermes,
    "pytriton": pytriton,
}

if __name__ == "__main__":
    main()
