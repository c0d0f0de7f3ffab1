"""What the benchmarks use of hermes is there: they are run by hand, and nothing else would say."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))
OWN = ("hermes", "workflows", "tests")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_benchmark_imports_of_hermes_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OWN:
            module = importlib.import_module(node.module or "")
            missing = [each.name for each in node.names if not hasattr(module, each.name)]
            assert not missing, f"{node.module}: {missing}"
