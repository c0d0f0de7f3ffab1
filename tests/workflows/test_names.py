"""What Luigi shows of tasks with many parameters, and what tells one from another."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import luigi
import pytest
from luigi.cmdline_parser import CmdlineParser
from luigi.scheduler import Scheduler
from luigi.worker import Worker

from hermes.aeriel.files import InferenceOptions
from workflows import InferenceTask, TritonServerTask
from workflows.validate import Predict, Validate

OTHER: dict[str, Any] = {"str": "other", "int": 7, "float": 0.5, "bool": True}
GIVEN = {"model_repository": "/models", "model_name": "m", "inputs": "*.h5", "output_dir": "/out"}


class Scored(InferenceTask):
    night = luigi.Parameter()
    threshold = luigi.FloatParameter(default=3.0)
    done = False

    def requires(self) -> list[luigi.Task]:
        return []

    def complete(self) -> bool:
        return self.done

    def run(self) -> None:
        self.done = True


def made(task: Any, **given: Any) -> Any:
    """Return a task, of whose parameters mypy knows nothing."""
    return task(**given)


def another(option: Any) -> Any:
    """Return another value than the default of an option."""
    kind = get_type_hints(InferenceOptions)[option.name]
    named = {"input_map": {"x": "/y"}, "transport": "grpc", "finite": "inputs"}
    return named.get(option.name, OTHER.get(getattr(kind, "__name__", ""), ("a",)))


@pytest.mark.parametrize("option", fields(InferenceOptions), ids=lambda option: option.name)
def test_a_task_is_known_by_each_option_that_changes_its_result(option: Any) -> None:
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (Scored, {"night": "n", "model_name": "m"}),
        (Validate, GIVEN),
    ]
    for of, given in kinds:
        task = made(of, **given)
        other = made(of, **{**given, option.name: another(option)})
        assert (task.task_id != other.task_id) == option.metadata["changes_result"]
        again = of.from_str_params(other.to_str_params())
        assert again == other
        assert again.options == other.options


def test_files_of_the_same_name_are_other_tasks() -> None:
    given = {"model_repository": "/models", "model_name": "m"}
    files = ("/a/x.h5", "/b/x.h5")
    ids = {
        made(Predict, **given, files=[[file]], predictions=[f"{file}.out"]).task_id
        for file in files
    }
    assert len(ids) == 2
    assert all(re.fullmatch(r"Predict_x_h5_[0-9a-f]{10}", name) for name in ids)


def test_what_is_shown_is_short() -> None:
    task = made(Validate, **GIVEN, batch_size=4, gpus=[0, 3], target="label", timeout_s=1.0)
    assert repr(task) == (
        'Validate(model_repository=/models, model_name=m, inputs=["*.h5"], output_dir=/out, '
        "options=gpus=[0, 3], batch_size=4, target=label)"
    )
    assert re.fullmatch(r"Validate_m_out_[0-9a-f]{10}", task.task_id)
    long = "a-rather-long-name-of-a-night-with-a-telescope-12.h5"
    task = made(Predict, model_repository="/m", model_name="m", files=[[long]], predictions=["p"])
    assert re.fullmatch(r"Predict_a_rather_long_with_a_telescope_12_h5_[0-9a-f]{10}", task.task_id)
    many = made(
        Predict,
        model_repository="/models",
        model_name="m",
        files=[[f"/data/night-{n}.h5"] for n in range(300)],
        predictions=[f"/out/{n}.h5" for n in range(300)],
    )
    assert repr(many) == (
        "Predict(input=night-0.h5 and 299 more, model_name=m, model_repository=/models)"
    )
    assert repr(made(TritonServerTask, model_repository="/models")) == (
        "TritonServerTask(model_repository=/models)"
    )


def test_a_parameter_of_a_subclass_is_shown_as_the_others_are() -> None:
    assert repr(made(Scored, model_name="m", night="n")) == "Scored(model_name=m, night=n)"
    task = made(Scored, model_name="m", night="n", threshold=4.0, cast=True)
    assert repr(task) == "Scored(model_name=m, night=n, options=cast=True, threshold=4.0)"


def test_the_page_of_a_scheduler_shows_the_same() -> None:
    scheduler = Scheduler()
    task = made(Scored, model_name="m", night="n", threshold=4.0, batch_size=4)
    with Worker(scheduler=scheduler, worker_id="w") as worker:
        worker.add(task)
        (shown,) = scheduler.task_list("PENDING", "").values()
        assert shown["display_name"] == (
            "Scored(model_name=m, night=n, options=batch_size=4, threshold=4.0)"
        )
        assert shown["params"].keys() == {"model_name", "night", "options"}
        assert worker.run()
    assert task.done


def test_a_command_line_takes_the_options_one_by_one() -> None:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in GIVEN.items()]
    with CmdlineParser.global_instance(["Validate", *arguments, "--batch-size", "4"]) as parser:
        task = parser.get_task_obj()
    assert task.options.batch_size == 4
    assert Path(task.output_dir) == Path("/out")
