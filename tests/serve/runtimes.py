"""What every kind of server does, wherever its process runs."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from hermes.aeriel.serve import TritonInstance, serve
from tests.helpers import python, remains, server_environment, server_pid, wait_until

GREETING = "$(id), \"a\" 'b' `c`\nd\\"

OWNER = """
import importlib, sys, time
from hermes.aeriel.serve import serve
importlib.import_module(sys.argv[3])
with serve(sys.argv[1], sys.argv[2] or None, listen="unix", wait=True) as instance:
    print(instance.server_id, flush=True)
    time.sleep(600)
"""


def doubled(instance: TritonInstance) -> list[float]:
    """Return the server's answer to [1, 2]."""
    x = InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.array([[1, 2]], dtype=np.float32))
    client: Any
    with InferenceServerClient(instance.endpoint.grpc) as client:
        answer: list[float] = client.infer("double", [x]).as_numpy("y")[0].tolist()
    return answer


class RuntimeConformance:
    """A server of one kind; subclasses choose the kind by a fixture, `image`.

    The servers listen on Unix sockets, because a kind may cut its servers off from the network.
    """

    kind: str
    module = "hermes"  # has the kind

    @pytest.fixture(scope="class")
    @classmethod
    def image(cls) -> str:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def served(cls, image: str, doubler: Path) -> Iterator[TritonInstance]:
        """A server with a model, whose repository has quotes, blanks and a newline in its path."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "2,4,6,7")
            patch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
            patch.setenv("APPTAINERENV_CUDA_VISIBLE_DEVICES", "5")
            patch.chdir("/")
            with serve(
                doubler,
                image or None,
                gpus=[0, 3],
                environment={"GREETING": GREETING},
                listen="unix",
                wait=True,
            ) as instance:
                yield instance

    def remains(self, server_id: str) -> list[object]:
        """Return whatever is there of a server."""
        return remains(server_id)

    def test_it_answers(self, served: TritonInstance) -> None:
        assert doubled(served) == [2, 4]

    def test_it_says_how_it_is(self, served: TritonInstance) -> None:
        assert type(served).__name__ == self.kind
        assert served.is_alive()
        assert served.is_ready()
        assert served.exit_code is None
        where = f"{served.server_id} at {served.endpoint.grpc}"
        assert repr(served) == f"<{self.kind} {where}, started>"

    def test_its_gpus_reach_the_server_process(self, served: TritonInstance) -> None:
        environment = server_environment(served.server_id)
        assert environment["CUDA_VISIBLE_DEVICES"] == "0,3"
        assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"

    def test_variables_arrive_as_they_were_given(self, served: TritonInstance) -> None:
        assert server_environment(served.server_id)["GREETING"] == GREETING

    def test_its_log_is_readable_by_its_owner_only(self, served: TritonInstance) -> None:
        assert stat.S_IMODE(served.log_file.stat().st_mode) == 0o600
        assert "Started GRPCInferenceService" in served.log_file.read_text()

    def test_another_one_runs_beside_it(
        self, served: TritonInstance, image: str, doubler: Path
    ) -> None:
        with serve(doubler, image or None, listen="unix", wait=True) as second:
            assert second.endpoint != served.endpoint
            assert doubled(second) == [2, 4]
        assert doubled(served) == [2, 4]

    def test_nothing_is_left_when_it_was_stopped(
        self, image: str, doubler: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with serve(doubler, image or None, listen="unix", wait=True) as instance:
            assert self.remains(instance.server_id)
        assert instance.exit_code == 0
        assert self.remains(instance.server_id) == []
        assert not instance.log_file.exists()
        assert capfd.readouterr() == ("", "")

    def test_nothing_is_left_when_its_owner_is_killed(self, image: str, doubler: Path) -> None:
        with python(OWNER, doubler, image, self.module) as owner:
            assert owner.stdout is not None
            server_id = owner.stdout.readline().strip()
            assert self.remains(server_id)
            owner.kill()
            owner.wait()
            wait_until(lambda: not self.remains(server_id), 60)

    def test_it_can_be_started_again_when_it_was_killed(self, image: str, doubler: Path) -> None:
        with serve(doubler, image or None, listen="unix", wait=True) as instance:
            endpoint = instance.endpoint
            os.kill(server_pid(instance.server_id), signal.SIGKILL)
            wait_until(lambda: not instance.is_alive())
            assert instance.exit_code in {-signal.SIGKILL, 128 + signal.SIGKILL}
            instance.restart()
            instance.wait()
            assert instance.endpoint == endpoint
            assert doubled(instance) == [2, 4]
        assert self.remains(instance.server_id) == []
