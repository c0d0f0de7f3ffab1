from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

Infer = Callable[..., dict[str, Any]]
InferAtOnce = Callable[..., list[Any]]

# It runs in the private environment: the one of the tests has no torch.
MAKE_MODELS = """
import pathlib, sys
from typing import Dict, Tuple
import torch
from torch import Tensor


class Double(torch.nn.Module):
    def forward(self, x):
        return x + x


class Two(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
        return a + b, a - b


class Keyed(torch.nn.Module):
    def forward(self, tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
        return {"sum": tensors["a"] + tensors["b"]}


class Rows(torch.nn.Module):
    def forward(self, x):
        if bool((x < 0).any()):
            raise ValueError("negative")
        return torch.full_like(x, x.shape[0])


def save(name, model):
    path = pathlib.Path(sys.argv[1]) / name / "1" / "model.pt"
    path.parent.mkdir(parents=True)
    torch.jit.script(model).save(str(path))


save("double", Double())
save("half", Double())
save("unlisted", Double())
save("by_argument", Two())
save("by_index", Two())
save("by_order", Two())
save("keyed", Keyed())
save("rows", Rows())
"""

CONFIG = """
platform: "pytorch_libtorch"
max_batch_size: 32
instance_group [{{ kind: KIND_CPU count: 1 }}]
dynamic_batching {{ max_queue_delay_microseconds: 300000 preferred_batch_size: [32] }}
input [{inputs}]
output [{outputs}]
"""


def write_config(
    repository: Path,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    data_type: str = "TYPE_FP32",
) -> None:
    def listed(names: Sequence[str]) -> str:
        return ", ".join(
            f'{{ name: "{name}" data_type: {data_type} dims: [-1] }}' for name in names
        )

    (repository / name / "config.pbtxt").write_text(
        CONFIG.format(inputs=listed(inputs), outputs=listed(outputs))
    )


@pytest.fixture(scope="module")
def repository(torch_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("torch") / "models"
    repository.mkdir()
    python = torch_home / "current" / "bin" / "python3"
    script = repository.parent / "make_models.py"
    script.write_text(MAKE_MODELS)
    subprocess.run([python, "-W", "ignore", script, repository], check=True)
    write_config(repository, "double", ["INPUT__0"], ["OUTPUT__0"])
    write_config(repository, "half", ["INPUT__0"], ["OUTPUT__0"], "TYPE_FP16")
    # Each in the wrong order, where the order is not what counts.
    write_config(repository, "by_argument", ["b", "a"], ["OUTPUT__0", "OUTPUT__1"])
    write_config(repository, "by_index", ["y__1", "x__0"], ["OUTPUT__1", "OUTPUT__0"])
    write_config(repository, "by_order", ["first", "second"], ["sum", "difference"])
    write_config(repository, "keyed", ["b", "a"], ["sum"])
    write_config(repository, "rows", ["INPUT__0"], ["OUTPUT__0"])
    return repository


@pytest.fixture(scope="module")
def client(torch_home: Path, repository: Path, serve_models: Any) -> Iterator[Any]:
    with serve_models(torch_home, repository) as client:
        yield client


@pytest.mark.parametrize(("model", "dtype"), [("double", np.float32), ("half", np.float16)])
@pytest.mark.parametrize("shape", [(1, 3), (4, 5)])
def test_answers_are_right(
    client: Any, infer: Infer, model: str, dtype: type, shape: tuple[int, int]
) -> None:
    x: Any = np.arange(np.prod(shape)).reshape(shape).astype(dtype)

    y = infer(client, model, INPUT__0=x)["OUTPUT__0"]

    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x + x)


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("by_argument", ("a", "b"), ("OUTPUT__0", "OUTPUT__1")),
        ("by_index", ("x__0", "y__1"), ("OUTPUT__0", "OUTPUT__1")),
        ("by_order", ("first", "second"), ("sum", "difference")),
    ],
)
def test_names_are_matched_as_triton_does(
    client: Any, infer: Infer, model: str, inputs: tuple[str, str], outputs: tuple[str, str]
) -> None:
    a, b = np.full((2, 3), 5, np.float32), np.full((2, 3), 2, np.float32)

    answer = infer(client, model, **{inputs[1]: b, inputs[0]: a})

    assert answer[outputs[0]].tolist() == [[7] * 3] * 2
    assert answer[outputs[1]].tolist() == [[3] * 3] * 2


def test_model_of_dictionaries_is_fed_by_name(client: Any, infer: Infer) -> None:
    a, b = np.full((2, 3), 5, np.float32), np.full((2, 3), 2, np.float32)

    assert infer(client, "keyed", a=a, b=b)["sum"].tolist() == [[7] * 3] * 2


def test_requests_share_a_run_and_fail_alone(client: Any, infer_at_once: InferAtOnce) -> None:
    requests = [np.full((1, 2), value, np.float32) for value in (1, 2, 3, 4)]

    together = infer_at_once(client, "rows", "INPUT__0", requests)
    *good, bad = infer_at_once(
        client, "rows", "INPUT__0", [*requests, np.full((1, 2), -1, np.float32)]
    )

    assert max(answer.as_numpy("OUTPUT__0").max() for answer in together) > 1
    assert all(answer.as_numpy("OUTPUT__0").shape == (1, 2) for answer in good)
    assert isinstance(bad, InferenceServerException)
    assert "negative" in str(bad)


def test_model_without_a_configuration_says_that_it_needs_one(client: Any) -> None:
    index = client.get_model_repository_index(as_json=True)["models"]
    (entry,) = [entry for entry in index if entry["name"] == "unlisted"]

    assert "must list its inputs and outputs" in entry["reason"]


def test_missing_torch_says_how_to_bring_it(
    repository: Path, plain_home: Path, serve_models: Any
) -> None:
    with serve_models(plain_home, repository) as client:
        index = client.get_model_repository_index(as_json=True)["models"]

    (entry,) = [entry for entry in index if entry["name"] == "double"]
    assert "hermes install-triton --with torch" in entry["reason"]
