"""How fast a run is, and what bounds it: predictions, and measurements of this machine beside them.

python -m benchmarks.scaling predict --gpus 8 --gpu-rows-per-s 20000 --clients 8
python -m benchmarks.scaling year
python -m benchmarks.scaling measure --update
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.scaling import year
from benchmarks.scaling.compare import MODELS, Comparison, compare
from benchmarks.scaling.constants import load, save
from benchmarks.scaling.model import Setting, steady_rate
from benchmarks.scaling.simulation import Loss, Work, simulate
from benchmarks.scaling.tables import (
    COMPARISON_TITLES,
    comparison,
    constants,
    line,
    table,
    update_page,
)

# Options of a prediction, with defaults; 0 of a rate means that nothing bounds it.
SETTINGS = {
    "--servers": (1, "servers, each on a host of its own"),
    "--gpus": (1, "of a server, each with an instance of the model"),
    "--gpu-rows-per-s": (1e4, "of the model on one GPU, as hermes tune finds it"),
    "--clients": (4, "clients, spread over the servers"),
    "--client-hosts": (0, "hosts of the clients, with --link-gb-s; 0: as many as servers"),
    "--row-bytes": (32768, "of a row as it is sent"),
    "--read-bytes": (0.0, "of a row as it is read from the file system; 0: as it is sent"),
    "--answer-bytes": (4, "of the outputs of a row"),
    "--rows-per-request": (256, "of a request"),
    "--in-flight": (0, "requests under way of a client; 0: two more than --gpus"),
    "--link-gb-s": (0.0, "GB/s of a host's network; 0: clients are on the servers' hosts"),
    "--file-system-gb-s": (0.0, "GB/s of the file system for all clients; 0: any"),
    "--job-starts-per-s": (0.0, "jobs that the engine starts in a second; 0: any"),
    "--rows": (1e9, "of all files"),
    "--rows-per-file": (4096.0, "of a file"),
    "--files-per-job": (100, "of a job"),
    "--lose-at-s": (600.0, "when the host of --lose is lost"),
    "--back-s": (120.0, "until its work can start elsewhere"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="predictions beside measurements of this machine")
    measure.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    measure.add_argument(
        "--repeats", type=amount(3), default=3, help="of those of this machine; medians count"
    )
    measure.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS, help="only points of these"
    )
    measure.add_argument("--output", type=Path, default="scaling.json", help="all numbers")
    measure.add_argument(
        "--update",
        action="store_true",
        help="keep the constants for predictions, and put the tables in docs/scaling.md",
    )
    measure.set_defaults(run=run_measure)
    a_year = commands.add_parser("year", help="the table of docs/scaling.md for a year of data")
    a_year.set_defaults(run=lambda _: print(table(year.TITLES, year.rows())))
    predict = commands.add_parser("predict", help="what bounds a run, and how long it takes")
    for flag, (default, help_text) in SETTINGS.items():
        predict.add_argument(flag, type=amount(default), default=default, help=help_text)
    predict.add_argument("--lose", choices=["clients", "servers"], help="a host of these")
    predict.set_defaults(run=run_predict)
    options = parser.parse_args()
    # Servers and namespaces are removed on the way out, for this signal too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        options.run(options)
    except KeyboardInterrupt:
        sys.exit(130)


def amount(default: float) -> Callable[[str], float]:
    """Return what reads an option: above 0, or from 0 on where that is the default."""

    def read(text: str) -> float:
        try:
            number = type(default)(text)
        except ValueError:
            number = math.nan
        if not (0 < number < math.inf or number == default):
            least = "0 or more" if default == 0 else "above 0"
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise argparse.ArgumentTypeError(f"{text} is not {kind} {least}")
        return number

    return read


def run_predict(options: argparse.Namespace) -> None:
    is_remote = options.link_gb_s > 0
    link = 1e9 * options.link_gb_s or math.inf
    setting = Setting(
        costs=load()["grpc" if is_remote else "shm"],
        row_bytes=options.row_bytes,
        answer_bytes=options.answer_bytes,
        read_bytes=options.read_bytes or options.row_bytes,
        rows_per_request=options.rows_per_request,
        in_flight=options.in_flight or options.gpus + 2,
        instances=options.gpus,
        service_s=options.rows_per_request / options.gpu_rows_per_s,
        servers=options.servers,
        server_hosts=options.servers,
        clients=options.clients,
        client_hosts=options.client_hosts or options.servers,
        server_link=link,
        client_link=link,
        file_system=1e9 * options.file_system_gb_s or math.inf,
        job_starts_per_s=options.job_starts_per_s or math.inf,
    )
    work = Work(
        rows=options.rows, rows_per_file=options.rows_per_file, files_per_job=options.files_per_job
    )
    rate, bound_by = steady_rate(setting)
    print(f"while all clients stream: {rate:.4g} rows/s, bound by {bound_by}")
    losses = [Loss(at_s=options.lose_at_s, what=options.lose, back_s=options.back_s)]
    whole = simulate(setting, work, losses if options.lose else ())
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in whole.shares.items())
    print(f"the run: {whole.seconds:.0f} s, {whole.rows_per_s:.4g} rows/s")
    print(f"what the clients' time goes by: {shares}")
    if whole.again:
        print(f"answered again: {whole.again:.0f} rows")


def run_measure(options: argparse.Namespace) -> None:
    rows: list[Comparison] = []

    def take(row: Comparison) -> None:
        rows.append(row)
        print(line(comparison(row)), flush=True)

    found = compare(options.seconds, options.repeats, options.models, take)
    differences = sorted(abs(row.difference) for row in rows)
    summary = (
        f"{len(rows)} comparisons, {options.repeats} times {options.seconds:g} s for each "
        f"measurement; within 15 %: {sum(each <= 0.15 for each in differences)}; "
        f"median {100 * median(differences):.0f} %, "
        f"most {100 * differences[-1]:.0f} %. Load at the end: {os.getloadavg()[0]:.1f}."
    )
    tables = {
        "constants": constants(found.costs),
        "comparison": f"{table(COMPARISON_TITLES, map(comparison, rows))}\n\n{summary}",
    }
    print(tables["constants"], summary, sep="\n\n")
    options.output.write_text(
        json.dumps({"constants": asdict(found), "comparisons": [asdict(row) for row in rows]})
    )
    if options.update:
        save(found.costs)
        update_page(tables | {"year": table(year.TITLES, year.rows())})


if __name__ == "__main__":
    main()
