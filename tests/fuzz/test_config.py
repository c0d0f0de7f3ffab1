"""A damaged ``config.pbtxt`` is a model, or an error of one sentence."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from hermes.aeriel.repository import read_model
from tests.fuzz import RUNS, mutated_bytes, outcome

STEP = """
backend: "python"
max_batch_size: 16
input [
  { name: "x", data_type: TYPE_FP32, dims: [ 4 ] },
  { name: "mask", data_type: TYPE_STRING, dims: [ -1 ], optional: true }
]
output [{ name: "y", data_type: TYPE_FP32, dims: [ 4 ] }]
sequence_batching { oldest { max_candidate_sequences: 4 } }
instance_group [{ count: 2, kind: KIND_CPU }]
"""
ENSEMBLE = """
name: "whole"
platform: "ensemble"
max_batch_size: 0
input [{ name: "x", data_type: TYPE_INT64, dims: [ -1, 2 ] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [ 4 ] }]
ensemble_scheduling { step [{
  model_name: "step" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }] }
"""
# What a word may be replaced with, by its kind.
VALUES = {
    re.compile(r'"[^"]*"'): [
        *('""', '"."', '".."', '"../step"', '"a/b"', '"/etc"', '"step"', '"whole"', '"x"'),
        *('"\\000"', '"\\377"', '"\\n"', f'"{"n" * 300}"'),
    ],
    re.compile(r"TYPE_\w+|KIND_\w+"): [
        *("TYPE_BF16", "TYPE_INVALID", "TYPE_BOOL", "TYPE_STRING", "KIND_GPU", "KIND_AUTO"),
        *("0", "7", "77", "-1", "99999999999"),
    ],
    re.compile(r"(?<![\w])-?\d+"): [
        *("0", "-1", "-7", "1", "16777216", "2147483648", "9223372036854775807", "[ ]"),
        *("99999999999999999999", "1e9", "nan", "true", "[ 1, 2 ]"),
    ],
    re.compile(r"optional: true|name: |dims: |output"): ["", "reshape { shape: [ ] }", "# ?\n"],
}


def mutated_words(rng: random.Random, text: str) -> bytes:
    """Return a text with a few of its words replaced by others that could stand there."""
    for _ in range(rng.randint(1, 3)):
        kind, values = rng.choice(list(VALUES.items()))
        word = rng.choice(list(kind.finditer(text)) or [re.compile("").search(text)])
        assert word is not None
        text = f"{text[: word.start()]} {rng.choice(values)} {text[word.end() :]}"
    return text.encode()


# Protobuf's reader says so of a backslash before anything.
@pytest.mark.filterwarnings("ignore:.*invalid escape sequence:DeprecationWarning")
def test_a_damaged_configuration_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    configs = {"step": STEP, "whole": ENSEMBLE}
    for name in configs:
        (tmp_path / name / "1").mkdir(parents=True)
    for seed in range(RUNS):
        rng = random.Random(seed)
        damaged = rng.choice(list(configs))
        for name, text in configs.items():
            data = text.encode()
            if name == damaged:
                data = rng.choice((mutated_bytes(rng, data), mutated_words(rng, text)))
            (tmp_path / name / "config.pbtxt").write_bytes(data)
        found = outcome(lambda: read_model(str(tmp_path), "whole"), seed)
        if isinstance(found, str):
            assert str(tmp_path) in found, f"seed {seed}"
        elif found.specification is not None:
            for tensor in found.specification.inputs.values():
                assert min(tensor.shape, default=0) >= -1, f"seed {seed}"
                assert tensor.dtype.kind in "biufOV", f"seed {seed}"  # V: bfloat16
