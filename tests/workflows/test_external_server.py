"""A pipeline on a server that somebody else runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.serve import TritonInstance, serve
from tests.workflows.conftest import Luigi, write_input

PIPELINE = """
import luigi
from workflows import ExternalServer, InferenceTask


class Strain(luigi.ExternalTask):
    def output(self):
        return luigi.LocalTarget("a.h5")


class Score(InferenceTask):
    server_is = luigi.Parameter()
    models = luigi.Parameter(default="")

    def requires(self):
        return {
            "server": ExternalServer(server=self.server_is, models=self.models),
            "input": Strain(),
        }

    def output(self):
        return luigi.LocalTarget("scores.h5")
"""
SCORE = ("--module=pipeline", "Score", "--model-name=double", '--input-map={"x": "x"}')


@pytest.fixture(scope="module")
def external(models: Path, triton_home: Path) -> Iterator[TritonInstance]:
    with serve(models, listen="unix", wait=True) as instance:
        yield instance


@pytest.mark.parametrize("kind", ["address", "endpoint file"])
def test_it_is_used_and_left_alone(
    luigi: Luigi, external: TritonInstance, tmp_path: Path, kind: str
) -> None:
    x = write_input(tmp_path / "a.h5", 20)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    server = external.endpoint.grpc
    if kind == "endpoint file":
        external.endpoint.write(tmp_path / "server.json")
        server = "server.json"
    ran = luigi(*SCORE, f"--server-is={server}")
    assert ran.returncode == 0, ran.stdout
    with h5py.File(tmp_path / "scores.h5") as scores:
        assert np.array_equal(scores["double"], 2 * x)
        assert scores.attrs["server"] == external.endpoint.grpc
    assert external.is_ready()


def test_results_are_made_again_when_its_models_are_said_to_be_others(
    luigi: Luigi, external: TritonInstance, tmp_path: Path
) -> None:
    write_input(tmp_path / "a.h5", 20)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    scores = tmp_path / "scores.h5"
    made = []
    for models in ("June", "June", "July"):
        ran = luigi(*SCORE, f"--server-is={external.endpoint.grpc}", f"--models={models}")
        assert ran.returncode == 0, ran.stdout
        made.append(scores.stat().st_mtime_ns)
    assert made[0] == made[1] < made[2]


@pytest.mark.parametrize("server", ["localhost:1", "missing.json"])
def test_nothing_runs_where_nothing_listens(luigi: Luigi, tmp_path: Path, server: str) -> None:
    write_input(tmp_path / "a.h5", 20)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    ran = luigi(*SCORE, f"--server-is={server}")
    assert "external dependencies" in ran.stdout
    assert not (tmp_path / "scores.h5").exists()


def test_a_web_server_in_its_place_is_said_at_once(luigi: Luigi, tmp_path: Path) -> None:
    write_input(tmp_path / "a.h5", 20)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        ran = luigi(*SCORE, f"--server-is={address}", timeout_s=60)
        server.shutdown()
        thread.join()
    assert f"server: {address} speaks HTTP/1: Triton's HTTP port, a web server or" in ran.stdout
