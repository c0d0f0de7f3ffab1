"""How the arguments, results and states of TorchScript models are found by their names."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

Infer = Callable[..., dict[str, Any]]
Reason = Callable[[Any, str], str]

# It runs in the private environment: the one of the tests has no torch.
MAKE_MODELS = """
import pathlib, sys
from typing import Dict, List, Optional, Tuple
import torch
from torch import Tensor


class Words(torch.nn.Module):
    def forward(self, x: Tensor) -> List[str]:
        return ["ab", "cde"]


class WordsAndNumbers(torch.nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, List[str]]:
        return 2 * x, ["ab", "cde"]


class Optionals(torch.nn.Module):
    def forward(self, x, a: Optional[Tensor] = None, b: Optional[Tensor] = None):
        if a is not None:
            x = x + 10 * a
        if b is not None:
            x = x + 100 * b
        return x


class Keyed(torch.nn.Module):
    def forward(this, anything: Dict[str, Tensor], factor: float = 2.0) -> Dict[str, Tensor]:
        return {"product": factor * anything["a"]}


class Sum(torch.nn.Module):
    def forward(self, x, start, before) -> Tuple[Tensor, Tensor, Tensor]:
        total = before + x
        return total, start, total


class Previous(torch.nn.Module):
    def forward(self, x: Tensor, before: Tensor) -> Tuple[Tensor, Tensor]:
        return before + 0, x


class KeyedSum(torch.nn.Module):
    def forward(self, tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
        total = tensors["x"] + tensors["before"]
        return {"y": total, "after": total}


class Brain(torch.nn.Module):
    def forward(self, x):
        return x.to(torch.bfloat16)


class Many(torch.nn.Module):
    def forward(self, x):
        return x, x, x, x, x, x


def save(name, model):
    path = pathlib.Path(sys.argv[1]) / name / "1" / "model.pt"
    path.parent.mkdir(parents=True)
    torch.jit.script(model).save(str(path))


save("words", Words())
save("words_and_numbers", WordsAndNumbers())
for name in ("trailing", "gap", "optional"):
    save(name, Optionals())
save("keyed", Keyed())
save("sum", Sum())
save("sum_unnamed", Sum())
save("previous", Previous())
save("keyed_sum", KeyedSum())
save("brain", Brain())
save("brain_configured", Brain())
save("many", Many())
"""

SEQUENCE = """
sequence_batching {{
  direct {{}}
  {control}
  state [{{
    input_name: "{before}" output_name: "{after}" data_type: TYPE_FP32 dims: [1]
    initial_state {{ name: "zero" data_type: TYPE_FP32 dims: [1] zero_data: true }}
  }}]
}}
"""
START = """control_input [{{
    name: "{name}" control [{{ kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }}] }}]"""


def tensor(name: str, kind: str = "FP32", more: str = "") -> str:
    return f'{{ name: "{name}" data_type: TYPE_{kind} dims: [1] {more} }}'


def write_config(
    repository: Path,
    name: str,
    inputs: list[str],
    outputs: list[str],
    *,
    size: int = 0,
    more: str = "",
) -> None:
    (repository / name / "config.pbtxt").write_text(
        f"""
        platform: "pytorch_libtorch"
        max_batch_size: {size}
        input [{", ".join(inputs)}]
        output [{", ".join(outputs)}]
        {more}
        """
    )


@pytest.fixture(scope="module")
def repository(torch_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("torch") / "models"
    repository.mkdir()
    script = repository.parent / "make_models.py"
    script.write_text(MAKE_MODELS)
    python = torch_home / "current" / "bin" / "python3"
    subprocess.run([python, "-W", "ignore", script, repository], check=True)

    x, y = [tensor("INPUT__0")], [tensor("OUTPUT__0")]
    text = tensor("OUTPUT__0", "STRING").replace("[1]", "[-1]")
    write_config(repository, "words", x, [text])
    write_config(repository, "words_and_numbers", x, [*y, text.replace("OUTPUT__0", "OUTPUT__1")])
    a, b = tensor("a", more="optional: true"), tensor("b", more="optional: true")
    write_config(repository, "trailing", [tensor("x"), tensor("a")], y)
    write_config(repository, "gap", [tensor("x"), tensor("b")], y)
    write_config(repository, "optional", [tensor("x"), a, b], y)
    write_config(repository, "keyed", [tensor("a")], [tensor("product")])

    start = START.format(name="START__1")
    state = SEQUENCE.format(control=start, before="BEFORE__2", after="AFTER__2")
    write_config(repository, "sum", x, [*y, tensor("STARTED__1")], size=4, more=state)
    unnamed = SEQUENCE.format(control=START.format(name="begins"), before="b__2", after="a__2")
    write_config(repository, "sum_unnamed", x, y, size=4, more=unnamed)
    state = SEQUENCE.format(control="", before="BEFORE__1", after="AFTER__1")
    write_config(repository, "previous", x, y, size=4, more=state)
    state = SEQUENCE.format(control="", before="before", after="after")
    write_config(repository, "keyed_sum", [tensor("x")], [tensor("y")], size=4, more=state)

    write_config(repository, "brain", x, y)
    write_config(repository, "brain_configured", x, [tensor("OUTPUT__0", "BF16")])
    many = [tensor(f"{letter}__{index}") for letter, index in zip("zaqcyk", range(6), strict=True)]
    write_config(repository, "many", x, many)
    return repository


@pytest.fixture(scope="module")
def client(torch_home: Path, repository: Path, serve_models: Any) -> Iterator[Any]:
    with serve_models(torch_home, repository) as client:
        yield client


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def test_outputs_come_in_the_order_of_the_configuration(client: Any, infer: Infer) -> None:
    names = list(infer(client, "many", INPUT__0=ones(1)))

    assert names == ["z__0", "a__1", "q__2", "c__3", "y__4", "k__5"]


def test_list_of_strings_is_one_output(client: Any, infer: Infer) -> None:
    assert infer(client, "words", INPUT__0=ones(1))["OUTPUT__0"].tolist() == [b"ab", b"cde"]


def test_list_of_strings_is_one_of_several_outputs(client: Any, infer: Infer) -> None:
    answer = infer(client, "words_and_numbers", INPUT__0=ones(1))

    assert answer["OUTPUT__0"].tolist() == [2]
    assert answer["OUTPUT__1"].tolist() == [b"ab", b"cde"]


def test_arguments_at_the_end_may_be_left_out(client: Any, infer: Infer) -> None:
    assert infer(client, "trailing", x=ones(1), a=ones(1))["OUTPUT__0"].tolist() == [11]
    assert infer(client, "optional", x=ones(1), a=ones(1))["OUTPUT__0"].tolist() == [11]
    everything = infer(client, "optional", x=ones(1), a=ones(1), b=ones(1))
    assert everything["OUTPUT__0"].tolist() == [111]


def test_argument_between_others_may_not_be_left_out(
    client: Any, infer: Infer, reason: Reason
) -> None:
    assert "the configuration gives" in reason(client, "gap")
    assert "forward(x, a, b) without ['a']" in reason(client, "gap")
    with pytest.raises(InferenceServerException, match=r"the request gives.*without \['a'\]"):
        infer(client, "optional", x=ones(1), b=ones(1))


def test_dictionary_is_the_first_argument_under_any_name(client: Any, infer: Infer) -> None:
    assert infer(client, "keyed", a=ones(1))["product"].tolist() == [2]


def test_sequences_have_their_controls_and_states(client: Any, infer_sequence: Any) -> None:
    for sequence in (5, 6, 5):
        answers = infer_sequence(client, "sum", sequence, "INPUT__0", [ones(1, 1)] * 3)

        assert [answer.as_numpy("OUTPUT__0").item() for answer in answers] == [1, 2, 3]
        assert [answer.as_numpy("STARTED__1").item() for answer in answers] == [1, 0, 0]


def test_states_are_kept_in_models_of_dictionaries(client: Any, infer_sequence: Any) -> None:
    answers = infer_sequence(client, "keyed_sum", 7, "x", [ones(1, 1)] * 3)

    assert [answer.as_numpy("y").item() for answer in answers] == [1, 2, 3]


def test_state_outlives_the_request_whose_memory_it_was(client: Any, infer_sequence: Any) -> None:
    requests = [np.full((1, 1), value, np.float32) for value in (1, 2, 3, 4)]

    answers = infer_sequence(client, "previous", 8, "INPUT__0", requests)

    assert [answer.as_numpy("OUTPUT__0").item() for answer in answers] == [0, 1, 2, 3]


def test_control_without_a_place_among_the_arguments_is_refused(
    client: Any, reason: Reason
) -> None:
    assert "'begins' of model 'sum_unnamed' is neither an argument" in reason(client, "sum_unnamed")


def test_bf16_is_refused_in_a_sentence(client: Any, infer: Infer, reason: Reason) -> None:
    assert "'OUTPUT__0' of model 'brain_configured' is TYPE_BF16" in reason(
        client, "brain_configured"
    )
    with pytest.raises(InferenceServerException, match="is bfloat16, but float32 is configured"):
        infer(client, "brain", INPUT__0=ones(1))
