"""Files whose server is lost again and again at one row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hermes.aeriel.files import InferenceOptions, NamedServer, Request, infer_with_reconnects
from hermes.aeriel.serve import TritonInstance, serve
from hermes.errors import InferenceError
from tests.helpers import write_model

# It does not answer in time where there is a negative number.
HANGS = """
    def answer(self, request):
        x = array(request, "x")
        if (x < 0).any():
            time.sleep(60)
        return response(y=2 * x)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    models = write_model(tmp_path_factory.mktemp("models"), "hangs", HANGS)
    with serve(models, ports="auto", wait=True, timeout_s=120, stop_timeout_s=1) as instance:
        yield instance


@pytest.mark.timeout(60)
def test_a_row_that_is_never_answered_is_given_up(server: TritonInstance, tmp_path: Path) -> None:
    """A connection that comes no further than the one before is no progress."""
    x = np.ones((64, 1), np.float32)
    x[40] = -1
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
    options = InferenceOptions(model_name="hangs", timeout_s=0.3, retry_for_s=8.0)
    request = Request(
        input_files=(tmp_path / "x.h5",),
        output_file=tmp_path / "y.h5",
        options=options,
        fingerprint="f",
        provenance={},
    )
    done: list[int] = []

    def show(_: Request, rows: int, __: int) -> None:
        done.append(rows)

    with pytest.raises(InferenceError):
        infer_with_reconnects(NamedServer(server.endpoint), options, [lambda: request], show)
    assert max(done) == 40
    assert done.count(40) > 1, "it was tried again"
    assert not (tmp_path / "y.h5").exists()
