from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hermes
import workflows
from hermes.aeriel import files

EXTRAS = ("matplotlib", "jinja2", "sklearn", "skl2onnx", "onnx", "onnxruntime", "torch")
RUNS_AT_ONCE = ("hermes.__main__",)


def modules() -> list[str]:
    """Return the names of all modules of the two packages."""
    names = []
    for package in (hermes, workflows):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names += [package.__name__, *(module.name for module in found)]
    return [name for name in names if name not in RUNS_AT_ONCE]


def packages() -> list[ModuleType]:
    imported = [importlib.import_module(name) for name in modules()]
    return [module for module in imported if hasattr(module, "__path__")]


def run(program: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_all_is_what_the_package_exports(package: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(package))
    imports = [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    exported = {
        alias.asname or alias.name
        for each in imports
        if each.module not in {"typing", "hermes._lazy", "__future__"}
        for alias in each.names
    }
    public = {name for name in exported if not name.startswith("_")}
    assert set(getattr(package, "__all__", [])) == public
    assert all(getattr(package, name) is not None for name in public)


def test_a_package_has_no_other_names() -> None:
    with pytest.raises(
        AttributeError, match=r"module 'hermes.aeriel.files' has no .* 'infer_files_'"
    ):
        files.infer_files_  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(files, "__wrapped__")


def test_names_are_imported_on_use() -> None:
    package = "hermes.aeriel.files"
    program = (
        f"import sys, {package}; print(*sys.modules); {package}.infer_files; print(*sys.modules)"
    )
    before, after = (set(line.split()) for line in run(program).splitlines())
    assert f"{package}._infer" not in before
    assert {f"{package}._infer", "h5py", "hermes.aeriel.client"} <= after


@pytest.mark.parametrize("name", modules())
def test_module_says_in_a_sentence_what_it_is(name: str) -> None:
    first = (importlib.import_module(name).__doc__ or "").splitlines()[0]
    assert first.endswith((".", ":"))


@pytest.mark.parametrize(
    ("imported", "never"),
    [
        ("hermes.aeriel.serve", "hermes.aeriel.client"),
        ("hermes.aeriel.client", "hermes.aeriel.serve"),
        ("hermes.runtime", "hermes.aeriel"),
        ("hermes.errors", "hermes.aeriel"),
        *(
            (name, layer)
            for name in ("hermes.cli", "hermes.aeriel.serve", "hermes.aeriel.client")
            for layer in ("workflows", "luigi")
        ),
    ],
)
def test_dependencies_point_downwards(imported: str, never: str) -> None:
    # All that its packages import on use too.
    loaded = run(f"import sys; from {imported} import *; print(*sys.modules)").split()
    assert imported in loaded
    assert [name for name in loaded if name == never or name.startswith(f"{never}.")] == []


def test_nothing_of_hermes_imports_workflows_or_luigi() -> None:
    names = [name for name in modules() if name.split(".")[0] == "hermes"]
    loaded = run(f"import sys, {', '.join(names)}; print(*sys.modules)").split()
    assert {name.split(".")[0] for name in loaded} & {"workflows", "luigi"} == set()


def test_everything_imports_without_the_extras() -> None:
    run(
        f"import sys\n"
        f"for extra in {EXTRAS}: sys.modules[extra] = None\n"
        f"import {', '.join(modules())}\n"
    )


def test_imports_say_and_configure_nothing() -> None:
    program = (
        f"import {', '.join(modules())}, logging, signal\n"
        "assert not [h for h in logging.getLogger('hermes').handlers]\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    assert run(program) == ""


@pytest.mark.parametrize("package", [hermes, workflows], ids=lambda package: package.__name__)
def test_a_file_of_more_than_300_lines_says_why(package: ModuleType) -> None:
    [directory] = package.__path__
    texts = {path: path.read_text() for path in Path(directory).rglob("*.py")}
    long = {path for path, text in texts.items() if text.count("\n") > 300}
    assert [str(path) for path in long if "\n# Over 300 lines: " not in texts[path]] == []
