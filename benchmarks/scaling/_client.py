"""One client of a measurement: streams a file again and again, and counts when it is told to.

    python -m benchmarks.scaling._client ENDPOINT-FILE MODEL FILE BATCH-SIZE IN-FLIGHT TRANSPORT

Prints ``ready`` after the first answers, reads when to begin and to end (of the monotonic clock),
and prints JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import get_args

from hermes.aeriel._options import TransportName
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files import InferenceOptions, pass_rows

N_WARM_UP = 20


def main() -> None:
    endpoint, model, file, batch_size, in_flight, transport = sys.argv[1:]
    options = InferenceOptions(
        model_name=model,
        batch_size=int(batch_size),
        max_in_flight=int(in_flight),
        transport=next(name for name in get_args(TransportName) if name == transport),
    )
    with InferenceClient(Endpoint.read(Path(endpoint)), **options.client()) as client:
        passes = (pass_rows(client, [Path(file)], options) for _ in itertools.count())
        answers = itertools.chain.from_iterable(passes)
        for _ in range(N_WARM_UP):
            next(answers)
        print("ready", flush=True)
        begin, end = map(float, sys.stdin.readline().split())
        while time.monotonic() < begin:
            next(answers)
        began, cpu, rows = time.monotonic(), time.process_time(), 0
        while (now := time.monotonic()) < end:
            rows += len(next(answers)[0])
        numbers = {"rows": rows, "seconds": now - began, "cpu_s": time.process_time() - cpu}
        print(json.dumps(numbers), flush=True)
        sys.stdin.readline()  # until all have counted, each goes on being a load for the others


if __name__ == "__main__":
    main()
