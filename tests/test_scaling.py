"""The flow model of a run: what bounds it, and what comes out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling import constants, tables, year
from benchmarks.scaling.model import Costs, Setting, fair_rates, steady_rate
from benchmarks.scaling.simulation import Loss, Work, simulate
from tests.test_docs import blocks, run_block

ROOT = Path(__file__).parents[1]
# Of all that a request takes, the model takes most: 16 rows in 10 ms, on 2 instances.
GPU = Setting(
    costs=Costs(
        client_s_per_request=1e-4,
        client_s_per_byte=1e-10,
        server_s_per_request=1e-4,
        server_s_per_byte=1e-10,
    ),
    row_bytes=4096,
    read_bytes=4096,
    answer_bytes=4,
    rows_per_request=16,
    in_flight=8,
    instances=2,
    service_s=0.01,
)
GPU_ROWS_PER_S = 2 * 16 / 0.01
WORK = Work(rows=1e6, rows_per_file=1e4, files_per_job=5)


@pytest.mark.parametrize(
    ("limits", "rows_per_s", "bound_by"),
    [
        ({}, GPU_ROWS_PER_S, "model"),
        ({"client_link": 4096e2, "answer_bytes": 0}, 100, "network"),
        ({"server_link": 1e3, "answer_bytes": 1e4}, 0.1, "network"),
        ({"file_system": 4100e2}, 100, "file system"),
        ({"in_flight": 1, "costs": Costs(wait_s=0.09)}, 16 / 0.1, "in flight"),
        ({"costs": Costs(client_s_per_byte=1e-6)}, 1 / 4096e-6, "client"),
        ({"compute_s": 0.01, "server_cores": 0.5, "costs": Costs()}, 16 / 0.02, "server"),
        ({"compute_s": 0.01, "shared_cores": 0.5, "costs": Costs()}, 16 / 0.02, "cores"),
    ],
)
def test_one_bottleneck_gives_its_own_rate(
    limits: dict[str, object], rows_per_s: float, bound_by: str
) -> None:
    setting = replace(GPU, **limits)  # type: ignore[arg-type]
    rate, bound = steady_rate(setting)
    assert rate == pytest.approx(rows_per_s)
    assert bound == bound_by


def test_more_servers_are_faster_until_the_network_is_full() -> None:
    link = 5 * GPU_ROWS_PER_S * GPU.row_bytes  # as much as five of them take
    rates = [
        steady_rate(
            replace(GPU, servers=n, server_hosts=n, clients=n, client_link=link, answer_bytes=0)
        )
        for n in (1, 2, 4, 8, 16)
    ]
    assert [rate for rate, _ in rates] == pytest.approx(
        [n * GPU_ROWS_PER_S for n in (1, 2, 4, 5, 5)]
    )
    assert [bound for _, bound in rates] == ["model", "model", "model", "network", "network"]


def test_what_a_client_cannot_use_goes_to_the_others() -> None:
    demands = [{("own", 0): 1.0, ("shared", 0): 1.0}, {("shared", 0): 1.0}]
    rates = fair_rates(demands, {("own", 0): 2.0, ("shared", 0): 10.0})
    assert rates == [(2.0, ("own", 0)), (8.0, ("shared", 0))]


def test_a_client_that_nothing_bounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing bounds"):
        fair_rates([{("link", 0): 0.0}], {("link", 0): 1.0})


def test_every_row_is_answered_once() -> None:
    done = simulate(replace(GPU, servers=3, clients=7), replace(WORK, rows=123_456))
    assert done.answered == pytest.approx(123_456)
    assert done.again == 0
    assert sum(done.shares.values()) == pytest.approx(1)


def test_a_run_takes_as_long_as_its_rows_its_jobs_and_its_files() -> None:
    costs = Costs(job_s=3, file_s=0.1, server_start_s=20)
    done = simulate(replace(GPU, costs=costs), WORK)
    # The first job starts while the server does. A file's last request is answered 10 ms after it
    # was sent, and the instances could take another one every 5 ms.
    assert done.seconds == pytest.approx(20 + 19 * 3 + 100 * 0.105 + 1e6 / GPU_ROWS_PER_S)
    assert done.bound_by == "model"
    assert done.shares["files"] == pytest.approx(100 * 0.105 / done.seconds)


def test_small_files_bound_a_client_alone_and_not_many_together() -> None:
    work = replace(WORK, rows_per_file=16, files_per_job=10_000)
    setting = replace(GPU, costs=Costs(file_s=0.01))
    assert simulate(setting, work).bound_by == "files"
    assert simulate(replace(setting, clients=8), work).bound_by == "model"


def test_an_engine_that_starts_few_jobs_bounds_the_run() -> None:
    setting = replace(GPU, servers=10, clients=10, job_starts_per_s=0.05)
    done = simulate(setting, WORK)
    assert done.seconds == pytest.approx(20 / 0.05 + 5e4 / GPU_ROWS_PER_S, rel=1e-3)
    assert done.bound_by == "start"


@pytest.mark.parametrize("what", ["clients", "servers"])
def test_the_loss_of_a_host_costs_what_was_in_flight_and_the_time_until_another_is_there(
    what: str,
) -> None:
    costs = replace(GPU.costs, job_s=3, server_start_s=20)
    setting = replace(GPU, costs=costs, servers=2, server_hosts=2, clients=2, client_hosts=2)
    whole = simulate(setting, WORK)
    lost = simulate(setting, WORK, [Loss(at_s=100, what=what, back_s=60)])  # type: ignore[arg-type]
    in_flight = 8 * 16
    since_checkpoint = 2 * GPU_ROWS_PER_S if what == "clients" else 0
    assert lost.again == pytest.approx(in_flight + since_checkpoint, rel=0.01)
    assert lost.answered == pytest.approx(WORK.rows + lost.again)
    # The other host does a part of the work meanwhile, and the last job may be on either of them.
    longest = 60 + (3 if what == "clients" else 20) + lost.again / GPU_ROWS_PER_S
    job_s = 4 + 5e4 / GPU_ROWS_PER_S
    assert 0 < lost.seconds - whole.seconds <= longest + job_s


def test_clients_use_another_server_while_their_own_is_lost() -> None:
    slow = replace(GPU, servers=2, server_hosts=2, clients=2, in_flight=1)  # servers are half idle
    whole = simulate(slow, WORK)
    lost = simulate(slow, WORK, [Loss(at_s=0, what="servers", host=1, back_s=1e6)])
    assert whole.bound_by == lost.bound_by == "in flight"
    assert lost.seconds == pytest.approx(whole.seconds, rel=1e-3)


def test_the_tables_of_the_page_are_those_of_the_constants() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert tables.constants(constants.load()) in page
    assert tables.table(year.TITLES, year.rows()) in page


def test_the_commands_of_the_page(triton_home: Path) -> None:
    for language, text in blocks(ROOT / "docs" / "scaling.md"):
        run_block(language, text, ROOT, triton_home)
