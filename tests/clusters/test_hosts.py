"""`Validate` on several hosts: real addresses, mutual TLS, and no memory that they share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.jobs._files import RunDirectory
from tests.clusters.conftest import Hosts
from tests.clusters.pipeline import FAULTS, Pipeline, seconds_until_clean
from tests.helpers import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.root]


@pytest.fixture
def pipeline(hosts: Hosts, directory: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(hosts.cluster("login"), directory)
    yield pipeline
    pipeline.close()
    seconds_until_clean(pipeline, 30)


def endpoint(pipeline: Pipeline) -> Endpoint:
    """Return where the server listens."""
    run = pipeline.run_directory()
    assert run is not None
    return RunDirectory(run).endpoints()[0]


def test_a_server_on_the_drivers_host(hosts: Hosts, pipeline: Pipeline) -> None:
    """Clients on other hosts reach it by the host's name; the state is in each host's own /tmp.

    Jobs inherit the site's proxy for the web, which is none for servers.
    """
    pipeline.environment["HERMES_STATE_HOME"] = "/tmp/state"
    pipeline.environment["http_proxy"] = "http://127.0.0.1:9"
    pipeline.start(model="slow")
    wait_until(pipeline.is_under_way, 60)
    assert endpoint(pipeline).grpc.startswith("login:")
    assert endpoint(pipeline).credentials is not None
    assert [hosts.regions(name) for name in ("node1", "node2")] == [[], []]
    code, output = pipeline.finish()
    assert code == 0, output
    assert pipeline.merged()["y"] == pipeline.expected()
    wait_until(lambda: not any(map(hosts.regions, hosts.names)))


def test_a_host_whose_processes_end_at_once(hosts: Hosts, pipeline: Pipeline) -> None:
    """The beacon ends the jobs on other hosts, and a driver on one of these goes on."""
    pipeline.start("--server-place", "job", model="slower")
    wait_until(pipeline.is_under_way, 60)
    assert endpoint(pipeline).grpc.startswith("node")
    os.kill(hosts.first_process("login"), signal.SIGKILL)
    pipeline.finish(10)
    seconds_until_clean(pipeline, FAULTS["driver, worker and reaper SIGKILL"][1])
    pipeline.cluster = hosts.cluster("node1")
    pipeline.run("--advertise", hosts.address("node1"))
    assert pipeline.merged()["y"] == pipeline.expected()
