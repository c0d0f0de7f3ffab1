"""Many HDF5 files through a model, one after the other, with a progress bar."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hermes.aeriel._options import InferenceOptions
from hermes.aeriel.client import ClientStatistics, InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files._infer import Request, fingerprint, infer_file
from hermes.aeriel.files._inputs import output_names
from hermes.aeriel.files._sources import file_stamp
from hermes.errors import ParameterError


def infer_files(
    endpoint: Endpoint,
    options: InferenceOptions,
    files: Sequence[Path],
    output_dir: Path,
    *,
    resume: bool = False,
) -> list[ClientStatistics]:
    """Stream files through a model, and return the numbers of each.

    Parameters
    ----------
    endpoint
        The server.
    options
        The model, and how to read the files.
    files
        HDF5 files.
    output_dir
        Gets a file for each, by its path below what all of them have in common.
    resume
        Go on where an earlier call stopped. A server cannot tell whether it had the same model.

    Raises
    ------
    ParameterError
        A result would replace an input.
    HermesError
        What `infer_file` and `InferenceClient` raise, of the first file that fails.
    """
    outputs = [output_dir.absolute() / name for name in output_names(files)]
    inputs = {file.resolve() for file in files}
    for output in outputs:
        if output.resolve() in inputs:
            problem = f"{output} is an input too; give another directory"
            raise ParameterError("output_dir", problem)
    run = "resumable" if resume else secrets.token_hex(8)
    return [
        _infer(endpoint, options, file, output, run)
        for file, output in zip(files, outputs, strict=True)
    ]


def summary(done: Sequence[ClientStatistics]) -> str:
    """Return what several files took together."""
    total = ClientStatistics.sum(done)
    latencies = ", ".join(f"p{100 * p:.0f} {total.latency_ms(p):.3g} ms" for p in (0.5, 0.9, 0.99))
    return (
        f"{len(done)} file{'s' * (len(done) != 1)}, {total.rows} rows in {total.seconds:.3g} s: "
        f"{total.rows_per_s:.4g} rows/s, {total.megabytes_per_s:.4g} MB/s\n"
        f"{total.requests} requests: {latencies}; {total.retries} retries"
    )


def _infer(
    endpoint: Endpoint, options: InferenceOptions, file: Path, output: Path, run: str
) -> ClientStatistics:
    facts = options.facts()
    request = Request(
        input_file=file,
        output_file=output,
        options=options,
        fingerprint=fingerprint(**facts, input=file_stamp(file), run=run),
        provenance={"input_file": str(file), "server": endpoint.grpc, "parameters": facts},
    )
    with (
        InferenceClient(endpoint, **options.client()) as client,
        # None: no bar where nobody looks at one.
        tqdm(desc=file.name, unit=" rows", leave=False, disable=None) as bar,
    ):

        def show(done: int, total: int) -> None:
            if bar.total != total:
                bar.reset(total)
            bar.update(done - bar.n)

        return infer_file(client, request, show)
