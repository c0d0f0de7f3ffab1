"""Pipelines for the tests of a server's lifetime; the tests run them with Luigi's command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import luigi
import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from workflows import InferenceTask, TritonServerTask
from workflows.server import ServerParameters


def ask(address: str) -> list[float]:
    """Return what the model makes of a row."""
    given = InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.arange(4, dtype=np.float32).reshape(1, 4))
    with InferenceServerClient(address) as client:
        answer = client.infer("double", [given], client_timeout=20)
    return [float(value) for value in answer.as_numpy("double").ravel()]


class Step(luigi.Task):
    """A task that takes some time and leaves a file; fails where its name says so."""

    name = luigi.Parameter()
    seconds = luigi.FloatParameter(default=0.0, significant=False)

    @property
    def priority(self) -> int:  # type: ignore[override]
        return 1 if self.name.startswith("bad") else 0

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(f"{self.name}.done")

    def run(self) -> None:
        Path(f"{self.name}.started").touch()
        time.sleep(self.seconds)
        if self.name.startswith("bad"):
            raise RuntimeError(self.name)
        Path(self.output().path).touch()


class Plain(ServerParameters, luigi.Task):
    """A consumer that knows nothing of hermes but the server's endpoint."""

    name = luigi.Parameter(default="plain")
    seconds = luigi.FloatParameter(default=0.0, significant=False)
    gate_s = luigi.FloatParameter(default=-1.0, significant=False)

    def requires(self) -> list[luigi.Task]:
        gate = [] if self.gate_s < 0 else [Step(name=f"gate-{self.name}", seconds=self.gate_s)]
        return [self.clone(TritonServerTask), *gate]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(f"{self.name}.done")

    def run(self) -> None:
        Path(f"{self.name}.started").touch()
        time.sleep(self.seconds)
        answer = ask(self.input()[0].endpoint.grpc)
        if self.name.startswith("bad"):
            raise RuntimeError(self.name)
        Path(self.output().path).write_text(str(answer))


class Behind(ServerParameters, luigi.WrapperTask):
    """A consumer whose server another one has brought up long before it can run."""

    def requires(self) -> list[luigi.Task]:
        return [self.clone(Plain, name="first"), self.clone(Plain, name="plain", gate_s=8.0)]


class Flaky(ServerParameters, luigi.Task):
    """A consumer that fails a few times, and notes each time who keeps its server."""

    failures = luigi.IntParameter()

    def requires(self) -> Any:
        return self.clone(TritonServerTask)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget("flaky.done")

    def run(self) -> None:
        with Path("tries").open("a+") as tries:
            tries.write(f"{self.requires().state.owner()}\n")
            tries.seek(0)
            n_tries = len(tries.readlines())
        if n_tries <= self.failures:
            raise RuntimeError(n_tries)
        Path(self.output().path).write_text(str(ask(self.input().endpoint.grpc)))


class FlakyBeside(ServerParameters, luigi.WrapperTask):
    """A consumer that fails again and again, and something slow beside it."""

    def requires(self) -> list[luigi.Task]:
        return [self.clone(Flaky, failures=9), Step(name="slow", seconds=40)]


class Dynamic(Plain):
    """A consumer that finds out while it runs."""

    def requires(self) -> list[luigi.Task]:
        return []

    def run(self) -> Any:
        target = yield self.clone(TritonServerTask)
        Path(f"{self.name}.started").touch()
        time.sleep(self.seconds)
        Path(self.output().path).write_text(str(ask(target.endpoint.grpc)))


class Finder(luigi.Task):
    """Finds out while it runs that it needs a step, which fails."""

    priority = 1

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget("found.done")

    def run(self) -> Any:
        yield Step(name="bad-found")


class Asker(Plain):
    """A consumer that finds out while it runs that it needs something else; there is no such."""

    priority = 1
    first = luigi.BoolParameter()

    def requires(self) -> list[luigi.Task]:
        return [] if self.first else super().requires()

    def run(self) -> Any:
        if self.first:
            yield self.clone(TritonServerTask)
        yield Finder()


class AskInVain(ServerParameters, luigi.WrapperTask):
    """Consumers that cannot go on, and something slow beside them."""

    def requires(self) -> list[luigi.Task]:
        return [
            self.clone(Asker, name="asker"),
            self.clone(Asker, name="first", first=True),
            self.clone(Beside),
        ]


class Shared(ServerParameters, luigi.WrapperTask):
    """A consumer that another driver runs, and something slow beside it."""

    def requires(self) -> list[luigi.Task]:
        return [self.clone(Plain, name="shared"), Step(name="slow", seconds=25)]


class Later(ServerParameters, luigi.Task):
    """Something slow that comes after the last consumer, `before`."""

    before = luigi.Parameter(default="plain")
    seconds = luigi.FloatParameter(default=12.0, significant=False)

    def requires(self) -> Any:
        return self.clone(Plain, name=self.before, seconds=0.0)

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget("later.done")

    def run(self) -> None:
        Path("later.started").touch()
        time.sleep(self.seconds)
        Path(self.output().path).touch()


class Infer(ServerParameters, InferenceTask):
    """One of the inputs through the model."""

    file = luigi.Parameter()

    @property
    def input_files(self) -> tuple[Path, ...]:
        return (Path(self.file),)

    def requires(self) -> dict[str, luigi.Task]:
        return {"server": self.clone(TritonServerTask)}

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(f"{Path(self.file).stem}.out.h5")


class ChangedModel(ServerParameters, luigi.Task):
    """A model that the pipeline itself changes, after it was used."""

    def requires(self) -> Any:
        return self.clone(Infer, file="first.h5", model_name="double")

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget("changed.done")

    def run(self) -> None:
        source = Path(self.model_repository) / "double" / "1" / "model.py"
        source.write_text(source.read_text().replace("2 * x", "3 * x"))
        Path(self.output().path).touch()


class InferBoth(ServerParameters, luigi.WrapperTask):
    """A file before the model is changed, and one after it."""

    def requires(self) -> Any:
        return self.clone(InferAfter, file="second.h5", model_name="double")


class InferAfter(Infer):
    """An input through the model that the pipeline has changed."""

    def requires(self) -> dict[str, luigi.Task]:
        return {**super().requires(), "changed": self.clone(ChangedModel)}


class InferAll(ServerParameters, luigi.WrapperTask):
    """Four inputs through the model, made here where they are not there."""

    rows = luigi.IntParameter(default=400)

    def requires(self) -> list[luigi.Task]:
        for number in range(4):
            if not Path(f"in-{number}.h5").exists():
                with h5py.File(f"in-{number}.h5", "w") as file:
                    rng = np.random.default_rng(number)
                    file["x"] = rng.standard_normal((self.rows, 4)).astype(np.float32)
        return [
            self.clone(Infer, file=f"in-{number}.h5", model_name="double", batch_size=4)
            for number in range(4)
        ]


class FailAndGoOn(ServerParameters, luigi.WrapperTask):
    """One consumer that fails, one that never can run, and something slow beside them."""

    def requires(self) -> list[luigi.Task]:
        return [
            self.clone(Plain, name="bad-consumer"),
            self.clone(AfterBad),
            self.clone(Beside),
        ]


class AfterBad(ServerParameters, luigi.Task):
    """A consumer whose other requirement fails."""

    def requires(self) -> list[luigi.Task]:
        return [self.clone(TritonServerTask), Step(name="bad-step")]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget("after-bad.done")


class Beside(ServerParameters, luigi.Task):
    """Slow, and after a consumer that works."""

    def requires(self) -> list[luigi.Task]:
        return [self.clone(Plain, name="good"), Step(name="early")]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget("beside.done")

    def run(self) -> None:
        Path("beside.started").touch()
        time.sleep(15)
        Path(self.output().path).touch()


class Work(ServerParameters, luigi.Task):
    """A consumer on a GPU of its own model's, after another task perhaps."""

    model = luigi.Parameter()
    name = luigi.Parameter()
    seconds = luigi.FloatParameter(default=0.5, significant=False)
    rank = luigi.IntParameter(default=0, significant=False)
    after = luigi.Parameter(default="")

    @property
    def priority(self) -> int:  # type: ignore[override]
        return int(self.rank)

    def requires(self) -> list[luigi.Task]:
        directory = Path(self.model_repository).parent
        server = self.clone(TritonServerTask, model_repository=str(directory / self.model))
        if not self.after:
            return [server]
        model, name = self.after.split("/")
        return [server, self.clone(Work, model=model, name=name, after="")]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(f"{self.name}.done")

    def run(self) -> None:
        Path(f"{self.name}.started").touch()
        time.sleep(self.seconds)
        answer = ask(self.input()[0].endpoint.grpc)
        with Path("order").open("a") as order:
            order.write(f"{self.name}\n")
        Path(self.output().path).write_text(str(answer))


class Two(ServerParameters, luigi.WrapperTask):
    """Two pipelines of three consumers each."""

    rank = luigi.IntParameter(default=0)

    def requires(self) -> list[luigi.Task]:
        return [
            self.clone(Work, model=model, name=f"{model}{number}", rank=rank)
            for number in range(3)
            for model, rank in (("a", -self.rank), ("b", self.rank))
        ]


class Crossed(ServerParameters, luigi.WrapperTask):
    """A consumer of `a` that needs one of `b`, beside one of `a` that does not."""

    def requires(self) -> list[luigi.Task]:
        return [
            self.clone(Work, model="a", name="a0"),
            self.clone(Work, model="a", name="a1", after="b/b0"),
        ]
