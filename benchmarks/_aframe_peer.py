"""aframe's inference of one segment with the client of ml4gw-hermes, which its environment runs.

    python _aframe_peer.py GRPC BACKGROUND INJECTIONS SHIFT_S OUTPUT

Prints the seconds from the first request to the last answer.
"""

import sys
import time

import h5py
import numpy as np
from ledger import inject, read

from hermes.aeriel.client import InferenceClient

STEP, BATCH, IN_FLIGHT = 2048, 32, 8
grpc, background, injections, shift_s, output = sys.argv[1:]
shifts_s = (0.0, float(shift_s))

with h5py.File(background) as strain, InferenceClient(grpc, "aframe-stream") as client:
    rate, start_time = 1 / strain["H1"].attrs["dx"], strain["H1"].attrs["x0"]
    shifts = [int(rate * each) for each in shifts_s]
    n_updates = (len(strain["H1"]) - max(shifts)) // STEP
    scores = {sequence: np.zeros(n_updates * BATCH, np.float32) for sequence in (1, 2)}
    waiting = set()
    read(injections)

    def take():
        while (answer := client.get()) is None:
            time.sleep(1e-4)
        y, request, sequence = answer
        scores[sequence][request * BATCH : (request + 1) * BATCH] = np.ravel(y)
        waiting.remove((sequence, request))

    began = time.perf_counter()
    for number in range(n_updates):
        first = number * STEP
        x = np.stack(
            [
                strain[ifo][shift + first : shift + first + STEP]
                for ifo, shift in zip(("H1", "L1"), shifts, strict=True)
            ]
        ).astype(np.float32)
        injected = inject(x, start_time + first / rate, shifts_s, read(injections))
        for sequence, update in ((1, x), (2, injected)):
            # It has no bound of its own.
            while len(waiting) >= IN_FLIGHT:
                take()
            client.infer(
                update[None],
                request_id=number,
                sequence_id=sequence,
                sequence_start=number == 0,
                sequence_end=number == n_updates - 1,
            )
            waiting.add((sequence, number))
    while waiting:
        take()
    seconds = time.perf_counter() - began
np.savez(output, background=scores[1], foreground=scores[2])
print(seconds)
