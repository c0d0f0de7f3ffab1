"""Rows of a file as sequences of updates, for a model that keeps a state between requests."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue

import h5py

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files._inputs import InputFacts
from hermes.aeriel.files._rows import Arrays, RowPlan, in_requests
from hermes.aeriel.files._series import SeriesPlan
from hermes.errors import ParameterError

# The rows of each update of a sequence, and their outputs.
Run = Generator[tuple[range, Arrays], None, None]


def check_sequences(rows_per_sequence: int, model_name: str, *, stateful: bool) -> None:
    """Raise ParameterError where sequences are asked of a model that keeps no state."""
    if rows_per_sequence and not stateful:
        problem = "keeps no state: its configuration has no sequence_batching"
        advice = "leave rows_per_sequence out"
        raise ParameterError("rows_per_sequence", f"model {model_name!r} {problem}; {advice}")


@dataclass(frozen=True, kw_only=True)
class SequencePlan:
    """How rows of a file, or windows of its series, become sequences of updates.

    Parameters
    ----------
    requests
        How rows become requests: the updates of a sequence.
    rows_per_sequence
        After how many rows a new sequence begins; the last one may have fewer.
    """

    requests: RowPlan | SeriesPlan
    rows_per_sequence: int

    def stream(
        self, client: InferenceClient, opened: h5py.File, facts: InputFacts, start: int
    ) -> Iterator[tuple[range, Arrays]]:
        """Yield the rows of each update, and their outputs; in order within a sequence.

        As many sequences are under way at once as the server has places for, and the client
        requests. The first is the one that `start` lies in, from its first row on: the state that
        the model had at `start` is gone.
        """
        first = start - start % self.rows_per_sequence
        rows = range(first, facts.rows) if start < facts.rows else range(0)
        is_left = threading.Event()
        coming = (
            self._run(client, opened, facts, sequence, is_left)
            for sequence in in_requests(rows, self.rows_per_sequence)
        )
        n_places = min(client.specification.sequence_places, client.max_in_flight)
        under_way: set[Run] = set()
        answered: SimpleQueue[tuple[Run, Future[tuple[range, Arrays] | None]]] = SimpleQueue()

        def go_on(run: Run) -> None:
            under_way.add(run)
            future = threads.submit(next, run, None)
            future.add_done_callback(lambda future: answered.put((run, future)))

        # A thread for each, because one that starts again is not to keep the others waiting:
        # the server gives up a sequence that it hears nothing of.
        threads = ThreadPoolExecutor(n_places, thread_name_prefix="hermes-sequence")
        try:
            for run in islice(coming, n_places):
                go_on(run)
            while under_way:
                run, future = answered.get()
                answer = future.result()
                if answer is not None:
                    go_on(run)
                    yield answer
                    continue
                under_way.remove(run)
                for following in islice(coming, 1):
                    go_on(following)
        finally:
            is_left.set()
            threads.shutdown()
            for run in under_way:
                run.close()

    def _run(
        self,
        client: InferenceClient,
        opened: h5py.File,
        facts: InputFacts,
        rows: range,
        is_left: threading.Event,
    ) -> Run:
        """Send one sequence."""

        def updates() -> Iterator[Arrays]:
            for update in self.requests.updates(opened, facts, rows):
                if is_left.is_set():
                    raise CancelledError
                yield update

        with client.sequence() as sequence:
            # Read again for a restart, rather than kept.
            answers = sequence.stream(updates)
            yield from zip(in_requests(rows, self.requests.rows_per_request), answers, strict=True)
