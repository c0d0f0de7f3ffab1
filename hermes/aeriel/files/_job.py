"""Many HDF5 files through a model, one after the other, with a progress bar."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hermes.aeriel.client import ClientStatistics, InferenceClient, TransportName
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.files._cut import Cut
from hermes.aeriel.files._infer import Request, fingerprint, infer_file
from hermes.aeriel.files._inputs import output_names
from hermes.aeriel.files._sources import stamp_of
from hermes.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to do with files.

    Parameters
    ----------
    endpoint, model_name, model_version, outputs
        As for `InferenceClient`; no outputs are all.
    max_in_flight, transport, rate_hz, timeout_s, retry_for_s
        Likewise.
    input_map, batch_size, rows_per_sequence, cast, cut, finite, allow_external_data, varying
        As for `Request`.
    resume
        Go on where an earlier job stopped. A server cannot tell whether it had the same model.
    """

    endpoint: Endpoint
    model_name: str
    model_version: str = ""
    outputs: tuple[str, ...] = ()
    input_map: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 0
    rows_per_sequence: int = 0
    cast: bool = False
    cut: Cut | None = None
    finite: tuple[str, ...] = ()
    allow_external_data: bool = False
    varying: tuple[str, ...] = ()
    max_in_flight: int | None = None
    transport: TransportName = "auto"
    rate_hz: float | None = None
    timeout_s: float = 60.0
    retry_for_s: float = 120.0
    resume: bool = False


def infer_files(job: Job, files: Sequence[Path], output_dir: Path) -> list[ClientStatistics]:
    """Stream files through a model, and return the numbers of each.

    Parameters
    ----------
    job
        The model, and how to read the files.
    files
        HDF5 files.
    output_dir
        Gets a file for each, by its path below what all of them have in common.

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
    return [_infer(job, *pair) for pair in zip(files, outputs, strict=True)]


def in_words(done: Sequence[ClientStatistics]) -> str:
    """Return what several files took together."""
    total = ClientStatistics.sum(done)
    latencies = ", ".join(f"p{100 * p:.0f} {total.latency_ms(p):.3g} ms" for p in (0.5, 0.9, 0.99))
    return (
        f"{len(done)} file{'s' * (len(done) != 1)}, {total.rows} rows in {total.seconds:.3g} s: "
        f"{total.rows_per_s:.4g} rows/s, {total.megabytes_per_s:.4g} MB/s\n"
        f"{total.requests} requests: {latencies}; {total.retries} retries"
    )


def _infer(job: Job, file: Path, output: Path) -> ClientStatistics:
    facts: dict[str, Any] = {
        "model_name": job.model_name,
        "model_version": job.model_version,
        "input_map": dict(job.input_map),
        "outputs": job.outputs,
        "batch_size": job.batch_size,
        "rows_per_sequence": job.rows_per_sequence,
        "cast": job.cast,
        "cut": job.cut,
        "finite": job.finite,
        "allow_external_data": job.allow_external_data,
        "varying": sorted(set(job.varying)),
    }
    run = "resumable" if job.resume else secrets.token_hex(8)
    request = Request(
        input_file=file,
        output_file=output,
        input_map=job.input_map,
        batch_size=job.batch_size,
        rows_per_sequence=job.rows_per_sequence,
        cast=job.cast,
        cut=job.cut,
        finite=job.finite,
        allow_external_data=job.allow_external_data,
        varying=job.varying,
        fingerprint=fingerprint(**facts, input=stamp_of(file), run=run),
        provenance={"input_file": str(file), "server": job.endpoint.grpc, "parameters": facts},
    )
    with (
        InferenceClient(
            job.endpoint,
            job.model_name,
            job.model_version,
            outputs=job.outputs or None,
            max_in_flight=job.max_in_flight,
            transport=job.transport,
            rate_hz=job.rate_hz,
            timeout_s=job.timeout_s,
            retry_for_s=job.retry_for_s,
        ) as client,
        # None: no bar where nobody looks at one.
        tqdm(desc=file.name, unit=" rows", leave=False, disable=None) as bar,
    ):

        def show(done: int, total: int) -> None:
            if bar.total != total:
                bar.reset(total)
            bar.update(done - bar.n)

        return infer_file(client, request, show)
