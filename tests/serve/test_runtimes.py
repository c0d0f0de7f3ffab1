"""The kinds of servers behave alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.instances import remains
from tests.serve.runtimes import RuntimeConformance


@pytest.mark.usefixtures("triton_home")
class TestLocal(RuntimeConformance):
    """The Triton of this machine."""

    kind = "LocalInstance"

    @pytest.fixture(scope="class")
    @classmethod
    def image(cls) -> str:
        return ""


@pytest.mark.container
class TestSingularity(RuntimeConformance):
    """A Singularity or Apptainer image."""

    kind = "SingularityInstance"

    @pytest.fixture(scope="class")
    @classmethod
    def image(cls, triton_image: Path) -> str:
        return str(triton_image)

    def remains(self, server_id: str) -> list[object]:
        return remains(server_id)
