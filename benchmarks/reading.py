"""Reading HDF5 files as requests, beside reading their datasets once: by chunking, interleaved.

    python benchmarks/reading.py                     a table on the terminal
    python benchmarks/reading.py --only gzip --repeat 5 --mb 400

Each measurement is a process of its own, so that its peak memory is its own. No server takes part:
requests are made, and go nowhere. "once" is `dataset[...]`, of one dataset after the other. The
memory of either is what it takes beyond a Python with its modules.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

from hermes.aeriel.client._transports import requests_of_a_read
from hermes.aeriel.files import WindowOptions, inspect
from hermes.aeriel.files._reading import open_data
from hermes.aeriel.files._rows import RowPlan
from hermes.aeriel.files._sequences import SequencePlan
from hermes.aeriel.files._series import SeriesPlan

ROWS = 32  # of a request
SEQUENCES = 8  # at a time

GZIP = {"compression": "gzip", "compression_opts": 1}
SHUFFLED = {**GZIP, "shuffle": True}
LZF = {"compression": "lzf"}


def cases(mb):
    """Yield the name of each case, its datasets, and how they are read."""
    n = mb * 1024 // 4  # rows of 4 KiB
    rows, narrow, series, channels = (n, 1024), (n * 64, 16), (n * 1024,), (4, n * 256)
    for name, shape, chunks, options in (
        ("contiguous", rows, None, {}),
        ("contiguous narrow", narrow, None, {}),
        ("chunks of a row", rows, (1, 1024), {}),
        ("rows", rows, (64, 1024), {}),
        ("rows gzip", rows, (64, 1024), GZIP),
        ("rows lzf", rows, (64, 1024), LZF),
        ("thousands of rows gzip", rows, (4096, 1024), GZIP),
        ("h5py's own gzip", rows, True, GZIP),
        ("one gzip", rows, rows, GZIP),
        ("one", rows, rows, {}),
        ("columns", rows, (n, 1), {}),
        ("columns gzip", rows, (n, 1), SHUFFLED),
        ("narrow columns gzip", narrow, (n * 64, 1), SHUFFLED),
        ("1000 by 1 gzip", rows, (1000, 1), SHUFFLED),
        ("1000 by 1 lzf", rows, (1000, 1), LZF),
        ("odd gzip", rows, (777, 100), SHUFFLED),
    ):
        yield name, {"x": (shape, chunks, options)}, {}
    yield (
        "two chunkings gzip",
        {"x": (rows, (n, 16), GZIP), "y": (rows, (1000, 1024), GZIP)},
        {},
    )
    for name, chunks in (("one", rows), ("1000 by 1024", (1000, 1024)), ("columns", (n, 16))):
        yield f"sequences of 100, {name} gzip", {"x": (rows, chunks, GZIP)}, {"sequences": 100}
        yield f"sequences of n/8, {name} gzip", {"x": (rows, chunks, GZIP)}, {"sequences": n // 8}
    for name, shape, chunks, options in (
        ("series contiguous", series, None, {}),
        ("series gzip", series, (1 << 16,), GZIP),
        ("series one gzip", series, series, GZIP),
        ("channels contiguous", channels, None, {}),
        ("channels gzip", channels, (1, 1 << 16), GZIP),
        ("channels one gzip", channels, channels, GZIP),
        ("channels 4 by 100 gzip", channels, (4, 100), GZIP),
        ("channels a row each gzip", channels, (1, n * 256), GZIP),
    ):
        cut = WindowOptions(window="1024")
        yield name, {"x": (shape, chunks, options)}, {"cut": cut}
        if options:
            for what, cut in (
                ("strides of 5000", WindowOptions(window="1024", stride="5000")),
                ("strides of 128", WindowOptions(window="1024", stride="128")),
            ):
                yield f"{name}, {what}", {"x": (shape, chunks, options)}, {"cut": cut}
    shifted = WindowOptions(window="1024", shifts=("0", "100000", "200000", "300000"))
    for name, chunks in (
        ("one", channels),
        ("a row each", (1, n * 256)),
        ("4 by 65536", (4, 65536)),
    ):
        yield f"shifted channels {name} gzip", {"x": (channels, chunks, GZIP)}, {"cut": shifted}


def main():
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="hermes-") as directory:
        print(f"{'case':42}{'once s':>8}{'ours s':>8}{'ratio':>7}{'once MB':>9}{'ours MB':>9}")
        for name, datasets, how in cases(arguments.mb):
            if arguments.only not in name:
                continue
            file = Path(directory, "file.h5")
            apart(write, file, datasets, arguments.mb)
            pairs = [(apart(once, file), apart(ours, file, how)) for _ in range(arguments.repeat)]
            ratio = statistics.median(b[0] / a[0] for a, b in pairs)
            a, b = (
                [statistics.median(values) for values in zip(*side, strict=True)]
                for side in zip(*pairs, strict=True)
            )
            print(f"{name:42}{a[0]:8.2f}{b[0]:8.2f}{ratio:7.2f}{a[1]:9.0f}{b[1]:9.0f}", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Reading as requests, and reading once.")
    parser.add_argument("--only", default="", help="the cases whose name contains this")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--mb", type=int, default=100, help="size of a dataset")
    parser.add_argument("--directory", help="for the files")
    return parser.parse_args()


def apart(function, *arguments):
    """Return what a function returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def write(file, datasets, mb):
    values = np.round(np.random.default_rng(0).normal(size=mb << 18), 2).astype("f4")
    with h5py.File(file, "w") as opened:
        for name, (shape, chunks, options) in datasets.items():
            data = values[: np.prod(shape)].reshape(shape)
            opened.create_dataset(name, data=data, chunks=chunks, **options)
    os.sync()


@contextmanager
def measured():
    """Give a list that gets the seconds that a block takes, and its peak memory in MB."""
    numbers = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, started = peak_memory_mb(), time.process_time()
    yield numbers
    numbers += time.process_time() - started, peak_memory_mb() - before


def peak_memory_mb():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def once(file):
    with measured() as numbers, h5py.File(file) as opened:
        for dataset in opened.values():
            dataset[...]
    return numbers


def ours(file, how):
    cut, rows_per_sequence = how.get("cut"), how.get("sequences")
    with h5py.File(file) as opened:
        names = {name: name for name in opened}
        shapes = {
            name: (cut.shape_of(cut.stack([dataset])) if cut else dataset.shape)[1:]
            for name, dataset in opened.items()
        }
    with measured() as numbers:
        facts = inspect(file, names, model_inputs=list(names), cut=cut)
        inputs = {name: (shape, np.dtype("f4")) for name, shape in shapes.items()}
        plan = RowPlan(inputs=inputs, rows_per_request=ROWS, with_row_axis=True)
        if cut:
            plan = SeriesPlan.of(plan, facts, cut, stateful=False)
        if rows_per_sequence:
            plan = SequencePlan(requests=plan, rows_per_sequence=rows_per_sequence)
        dtypes = {name: dtype for name, (_, dtype) in inputs.items()}
        with open_data(
            facts, dtypes, cut=cut, n_readers=SEQUENCES if rows_per_sequence else 1
        ) as data:
            deque(plan.stream(Nobody(), data, 0), maxlen=0)
    return numbers


class Nobody:
    """A client without a server: rows are read into a ring, as the client's own, and stay there."""

    specification = SimpleNamespace(max_sequences=SEQUENCES)
    max_in_flight = SEQUENCES

    def stream_rows(self, read, rows, layout):
        dtypes = dict.fromkeys(layout.shapes, np.dtype("f4"))
        length = requests_of_a_read(layout, dtypes) * layout.rows_per_request
        ring = [
            {name: np.empty((length, *shape), "f4") for name, shape in layout.shapes.items()}
            for _ in range(2)
        ]
        for number, begin in enumerate(range(rows.start, rows.stop, length)):
            end = min(begin + length, rows.stop)
            arrays = ring[number % 2]
            read(begin, end, {name: array[: end - begin] for name, array in arrays.items()})
            for _ in range(begin, end, layout.rows_per_request):
                yield {}

    @contextmanager
    def sequence(self):
        yield self

    def stream(self, updates):
        for update in updates():
            for array in update.values():
                array.sum()  # it is sent
            yield {}


if __name__ == "__main__":
    main()
