"""Rows of a file as sequences of updates, for a model that keeps a state between requests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.files._preprocessed import PreprocessedPlan
from hermes.aeriel.files._reading import InputData
from hermes.aeriel.files._rows import Arrays, RowPlan, split
from hermes.errors import ParameterError

# The rows of an update, and their outputs.
Answer = tuple[range, Arrays]

# How much of the answers may wait to be written, and what each takes besides its arrays, about.
# A server gives up a sequence that it hears nothing of for a second, which a disk may be slow for.
HELD_BYTES = 16 << 20
ANSWER_BYTES = 1 << 10


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
    in_order
        Whether the answers have to come in the order of the rows: one sequence after the other.
    """

    requests: RowPlan | PreprocessedPlan
    rows_per_sequence: int
    in_order: bool = False

    def first(self, start: int) -> int:
        """Return the row that is sent first, to go on at `start`."""
        return start - start % self.rows_per_sequence

    def n_places(self, client: InferenceClient) -> int:
        """Return how many sequences are under way at once, at most."""
        if self.in_order:
            return 1
        return min(client.specification.max_sequences, client.max_in_flight)

    def stream(self, client: InferenceClient, data: InputData, start: int) -> Iterator[Answer]:
        """Yield the rows of each update, and the same rows of its outputs; in order in a sequence.

        As many sequences are under way at once as the server has places for, and the client
        requests. The first is the one that `start` lies in, from its first row on: the state that
        the model had at `start` is gone.
        """
        n_rows = data.facts.rows
        rows = range(self.first(start), n_rows) if start < n_rows else range(0)
        coming = split(rows, self.rows_per_sequence)
        n_places = self.n_places(client)
        answered: SimpleQueue[Answer | Future[None]] = SimpleQueue()
        room = _Room(HELD_BYTES)

        def send(sequence: range) -> None:
            requests = split(sequence, self.requests.rows_per_request)
            with ExitStack() as stack:
                answers = [
                    stack.enter_context(client.sequence()).stream(updates)
                    for updates in self._sources(data, sequence, room)
                ]
                # In turns: while one answer is waited for, the request of another one is away.
                for which, *outputs in zip(requests, *answers, strict=True):
                    answer = which, self._rows_of(outputs, len(which), client)
                    room.take(_size(answer))
                    answered.put(answer)

        def begin(some: Iterator[range]) -> int:
            started = [threads.submit(send, sequence) for sequence in some]
            for future in started:
                future.add_done_callback(answered.put)
            return len(started)

        # A thread for each, because one that starts again is not to keep the others waiting.
        threads = ThreadPoolExecutor(n_places, thread_name_prefix="hermes-sequence")
        try:
            under_way = begin(islice(coming, n_places))
            while under_way:
                item = answered.get()
                if isinstance(item, Future):
                    item.result()
                    under_way += begin(islice(coming, 1)) - 1
                else:
                    room.give(_size(item))
                    yield item
        except (KeyboardInterrupt, SystemExit):
            client.close()  # no thread waits for its answer then
            raise
        finally:
            room.leave()
            threads.shutdown()

    def _sources(
        self, data: InputData, sequence: range, room: _Room
    ) -> list[Callable[[], Iterator[Arrays]]]:
        """Return what gives the updates of each variant of a sequence; they are read once.

        Functions: a restart reads the rows again, for one variant alone, and nothing is kept for
        it.
        """
        n = self.requests.hooks.n_variants if isinstance(self.requests, PreprocessedPlan) else 1

        def read() -> Iterator[tuple[Arrays, ...]]:
            for update in self.requests.updates(data, sequence):
                room.check()
                yield update if isinstance(update, tuple) else (update,)

        def source(number: int, first: list[Iterator[Arrays]]) -> Callable[[], Iterator[Arrays]]:
            return lambda: first.pop() if first else (update[number] for update in read())

        return [source(number, [each]) for number, each in enumerate(_shared(read(), n))]

    def _rows_of(self, outputs: Sequence[Arrays], expected: int, client: InferenceClient) -> Arrays:
        if isinstance(self.requests, PreprocessedPlan):
            return self.requests.rows_of(outputs, expected, client)
        return self.requests.rows_of(outputs[0], expected, client)


class _Room:
    """Memory for answers, which several threads take and one gives back.

    Parameters
    ----------
    n_bytes
        How much there is; the last one to take some may take more.
    """

    def __init__(self, n_bytes: int) -> None:
        self._free = n_bytes
        self._is_left = False
        self._changed = threading.Condition()

    def take(self, n_bytes: int) -> None:
        """Wait for room, and take it.

        Raises
        ------
        CancelledError
            Nobody waits for the answers any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0 or self._is_left)
            self._free -= n_bytes
        self.check()

    def give(self, n_bytes: int) -> None:
        """Give room back."""
        with self._changed:
            self._free += n_bytes
            self._changed.notify_all()

    def leave(self) -> None:
        """End every wait: nobody waits for the answers any more."""
        with self._changed:
            self._is_left = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raise CancelledError where nobody waits for the answers any more."""
        if self._is_left:
            raise CancelledError


def _shared(items: Iterator[tuple[Arrays, ...]], n: int) -> list[Iterator[Arrays]]:
    """Return an iterator for each place of the items, which are read once.

    What one has read and another has not waits, and no more: `itertools.tee` keeps up to 57 items
    that all have read. For one that was closed nothing waits.
    """
    waiting: dict[int, deque[Arrays]] = {number: deque() for number in range(n)}

    def one(number: int) -> Iterator[Arrays]:
        own = waiting[number]
        try:
            while True:
                if not own:
                    item = next(items, None)
                    if item is None:
                        return
                    for other, queue in waiting.items():
                        queue.append(item[other])
                yield own.popleft()
        finally:
            del waiting[number]

    return [one(number) for number in range(n)]


def _size(answer: Answer) -> int:
    return ANSWER_BYTES + sum(array.nbytes for array in answer[1].values())
