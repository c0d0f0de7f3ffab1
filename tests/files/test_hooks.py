"""What a user does to rows on their way, and which rows are stored."""

from __future__ import annotations

import functools
import importlib.util
import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hermes.aeriel.files import (
    FileJob,
    Hooks,
    InferenceOptions,
    NamedServer,
    Request,
    Rows,
    infer_files,
    plan_files,
)
from hermes.aeriel.jobs import JobOptions, infer_in_jobs
from hermes.aeriel.jobs._files import SubmissionDirectory, Work
from hermes.aeriel.serve import TritonInstance, serve
from hermes.aeriel.validation import find_predictions
from hermes.errors import DataError, HookError, OutputError, ParameterError
from tests.files.runs import Arrays, datasets, infer, write_models
from workflows.inference import InferenceTask

N_ROWS = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_home: Path) -> Iterator[TritonInstance]:
    repository = write_models(tmp_path_factory.mktemp("models"))
    with serve(repository, ports="auto", wait=True, timeout_s=120) as instance:
        yield instance


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["raw"] = np.random.default_rng(0).standard_normal((N_ROWS, 3))
    return tmp_path / "rows.h5"


@pytest.fixture
def series_file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "series.h5", "w") as file:
        file["strain"] = np.random.default_rng(1).standard_normal((2, 803))
        file["strain"].attrs.update({"dx": 0.25, "x0": 100.0})
    return tmp_path / "series.h5"


def run(
    server: TritonInstance,
    file: Path,
    hooks: Hooks = Hooks(),  # noqa: B008 (frozen)
    model: str = "rows",
    **options: Any,
) -> Path:
    """Return the file that comes out."""
    return infer(server, file, hooks, model_name=model, **options)


def scale(inputs: Arrays, _: Rows) -> Arrays:
    """Need float64, as strain of 1e-21 does, and give what the model takes."""
    (raw,) = inputs.values()
    assert raw.dtype == np.float64
    raw -= 1
    return {"x": (3 * raw).astype(np.float32)}


def scaled(raw: NDArray[Any]) -> NDArray[Any]:
    return 2 * (3 * (raw - 1)).astype(np.float32)


@pytest.mark.parametrize("transport", ["shm", "http", "grpc"])
def test_rows_are_changed_before_they_are_sent(
    server: TritonInstance, rows_file: Path, transport: str
) -> None:
    out = run(server, rows_file, Hooks(preprocess=scale), transport=transport, batch_size=7)
    np.testing.assert_array_equal(datasets(out)["y"], scaled(datasets(rows_file)["raw"]))


def test_windows_are_changed_before_they_are_sent(
    server: TritonInstance, series_file: Path
) -> None:
    out = run(server, series_file, Hooks(preprocess=scale), "windows", window="8", stride="3")
    strain = datasets(series_file)["strain"]
    views = np.lib.stride_tricks.sliding_window_view(strain, 8, axis=1)[:, ::3].swapaxes(0, 1)
    np.testing.assert_array_equal(datasets(out)["y"], scaled(views))


def test_updates_of_sequences_are_changed_before_they_are_sent(
    server: TritonInstance, rows_file: Path
) -> None:
    out = run(server, rows_file, Hooks(preprocess=scale), "sums", rows_per_sequence=300)
    halves = scaled(datasets(rows_file)["raw"]) / 2
    wanted = [np.cumsum(halves[at : at + 300], axis=0) for at in range(0, N_ROWS, 300)]
    np.testing.assert_array_equal(datasets(out)["y"], np.concatenate(wanted))


def test_a_hook_is_told_which_rows_it_has(server: TritonInstance, series_file: Path) -> None:
    seen: list[Rows] = []

    def preprocess(inputs: Arrays, rows: Rows) -> Arrays:
        seen.append(rows)
        return scale(inputs, rows)

    run(server, series_file, Hooks(preprocess=preprocess), "windows", window="8", stride="1s")
    (rows,) = seen
    assert rows.numbers.tolist() == list(range(199))
    times = rows.times
    assert times is not None
    assert times.tolist() == [100.0 + number for number in range(199)]
    assert (rows.start_time, rows.sample_rate, rows.stride) == (100.0, 4.0, 4)
    assert str(rows[3:9]) == "windows 3 to 8"
    assert rows.files == (series_file,)


def loud(outputs: Arrays, rows: Rows) -> tuple[Arrays, Rows]:
    which = outputs["y"][..., 0].reshape(len(rows), -1)[:, 0] > 1
    return {"snr": outputs["y"][which], "block": np.full(which.sum(), len(rows))}, rows[which]


@pytest.mark.parametrize("model", ["rows", "sums"])
def test_rows_that_a_hook_leaves_out_are_not_stored(
    server: TritonInstance, rows_file: Path, model: str
) -> None:
    plain = datasets(run(server, rows_file, model=model, cast=True))["y"]
    out = run(server, rows_file, Hooks(postprocess=loud, block_rows=64), model, cast=True)
    found = datasets(out)
    (kept,) = np.nonzero(plain[:, 0] > 1)
    assert 0 < len(kept) < N_ROWS
    np.testing.assert_array_equal(found["index/row"], kept)
    np.testing.assert_array_equal(found["snr"], plain[kept])
    np.testing.assert_array_equal(found["block"], np.where(kept < 960, 64, 40))
    with h5py.File(out) as file:
        assert (file.attrs["rows"], file.attrs["rows_kept"]) == (N_ROWS, len(kept))


def test_windows_that_are_kept_have_their_times(server: TritonInstance, series_file: Path) -> None:
    hooks = Hooks(preprocess=scale, postprocess=loud)
    out = run(server, series_file, hooks, "windows", window="8", stride="1s")
    with h5py.File(out) as file:
        rows, times = file["index/row"][...], file["index/time"][...]
        np.testing.assert_array_equal(times, 100.0 + rows)
        assert dict(file["index"].attrs) == {"start_time": 100.0, "sample_rate": 1.0}
        assert dict(file["snr"].attrs) == {"window": 8, "stride": 4}


def test_outputs_of_all_rows_are_stored_without_numbers(
    server: TritonInstance, rows_file: Path
) -> None:
    def calibrate(outputs: Arrays, _: Rows) -> Arrays:
        return {"y": outputs["y"].astype(np.float64) / 2}

    out = run(server, rows_file, Hooks(postprocess=calibrate), cast=True)
    found = datasets(out)
    assert found.keys() == {"y"}
    raw = datasets(rows_file)["raw"].astype(np.float32)
    np.testing.assert_array_equal(found["y"], raw.astype(np.float64))


def test_what_is_not_finite_counts_before_rows_are_left_out(
    server: TritonInstance, rows_file: Path
) -> None:
    with h5py.File(rows_file, "a") as file:
        file["raw"][17, 1] = np.nan
    out = run(server, rows_file, cast=True, keep="y[0] > 1e9")
    with h5py.File(out) as file:
        assert file.attrs["rows_kept"] == 0
        assert file["y"].shape == (0, 3)
        assert json.loads(file.attrs["not_finite_outputs"]) == {"y": 1}
    with pytest.raises(OutputError, match="values that are not finite, 1 of them near row 0"):
        run(server, rows_file, cast=True, keep="y[0] > 1e9", finite="outputs")


def test_an_output_with_the_name_of_the_numbers_of_rows_is_refused(
    server: TritonInstance, rows_file: Path
) -> None:
    out = datasets(run(server, rows_file, model="index", cast=True))
    assert out.keys() == {"index"}
    with pytest.raises(ParameterError, match=r"^outputs: 'index' has the name of the group"):
        run(server, rows_file, model="index", cast=True, keep="index[0] > 0")


def fails(_: Arrays, rows: Rows) -> Arrays:
    if rows.numbers[-1] >= 500:
        raise ValueError("no such gain")
    return {"y": np.zeros(len(rows))}


def nothing(*_: Any) -> Any:
    return None


WRONG: dict[str, tuple[Hooks, str]] = {
    "raises": (
        Hooks(postprocess=fails, block_rows=100),
        r"postprocess, rows 416 to 519 of .*: ValueError: no such gain \(.*test_hooks.py, line ",
    ),
    "dtype": (Hooks(preprocess=lambda i, _: {"x": i["x"]}), "preprocess, .*float64.*float32"),
    "name": (Hooks(preprocess=lambda i, _: {"raw": i["x"]}), r"\['raw'\]; the model takes \['x'\]"),
    "fewer": (Hooks(preprocess=lambda i, _: {"x": i["x"][1:]}), r"shape \(999, 3\), for 1000 rows"),
    "shape": (Hooks(preprocess=lambda i, _: {"x": np.float32(i["x"][:, :2])}), r"float32 \(2,\)"),
    "list": (Hooks(preprocess=lambda i, _: {"x": i["x"].tolist()}), "list, not a numpy array"),
    "nothing": (Hooks(preprocess=nothing), "returned NoneType, not a dict"),
    "array": (Hooks(postprocess=lambda o, _: o["y"]), "returned ndarray; return a dict"),
    "rows": (Hooks(postprocess=lambda o, _: (o, [1])), r"returned list beside .* rows\[which\]"),
    "length": (Hooks(postprocess=lambda o, r: (o, r[:9])), r"shape \(1000, 3\), for 9 rows"),
    "order": (
        Hooks(postprocess=lambda o, r: ({"y": o["y"][:2]}, r[[3, 1]])),
        "not rows of the block, in their order",
    ),
    "complex": (Hooks(postprocess=lambda o, _: {"y": 1j * o["y"]}), "complex64; return numbers"),
    "masked": (
        Hooks(postprocess=lambda o, _: {"y": np.ma.masked_less(o["y"], 0)}),
        "masked array, whose mask would be lost",
    ),
    "numbers": (
        Hooks(postprocess=lambda o, r: (o, r.numbers.__iadd__(1) and r)),
        "ValueError: output array is read-only",
    ),
    "empty name": (Hooks(postprocess=lambda o, _: {"": o["y"]}), "a name that is no text"),
    "NUL": (Hooks(postprocess=lambda o, _: {"a\0b": o["y"]}), "a name that is no text"),
    "surrogate": (Hooks(postprocess=lambda o, _: {"\udc80": o["y"]}), "a name that is no text"),
    "index": (Hooks(postprocess=lambda o, _: {"index": o["y"]}), "a name .* the file uses itself"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_hook_does_wrong_is_said_with_file_and_rows(
    server: TritonInstance, rows_file: Path, case: str
) -> None:
    hooks, words = WRONG[case]
    given: dict[str, Any] = {"cast": True} if hooks.preprocess is None else {}
    with pytest.raises(HookError, match=words) as caught:
        run(server, rows_file, hooks, input_map={"x": "raw"}, **given)
    assert str(rows_file) in str(caught.value)
    assert not rows_file.with_name("out.h5").exists()


def test_a_failure_in_a_sequence_is_not_tried_again(
    server: TritonInstance, rows_file: Path
) -> None:
    calls: list[Rows] = []

    def preprocess(_: Arrays, rows: Rows) -> Arrays:
        calls.append(rows)
        raise ConnectionError("no such service")

    with pytest.raises(HookError, match="ConnectionError: no such service"):
        run(server, rows_file, Hooks(preprocess=preprocess), "sums")
    assert len(calls) == 1


def test_batch_jobs_refuse_hooks(tmp_path: Path) -> None:
    request = Request(
        input_files=(tmp_path / "a.h5",),
        output_file=tmp_path / "b.h5",
        options=InferenceOptions(model_name="rows", keep="y > 8"),
        fingerprint="a",
        provenance={},
    )
    directory = SubmissionDirectory(tmp_path)
    work = Work(requests=(request,), server=0)
    directory.write_work(1, work)
    assert directory.read_work(1) == work
    hooked = replace(request, hooks=Hooks(preprocess=scale))
    with pytest.raises(ParameterError, match="engine: batch jobs do not have the hooks"):
        infer_in_jobs(
            [hooked],
            JobOptions(engine="slurm"),
            tmp_path,
            server=lambda: None,
            on_progress=lambda _: None,
        )


class TestFacts:
    def test_the_source_counts_along_the_classes(self) -> None:
        class Root:
            preprocess: Any = None

        class Base(Root):
            def preprocess(self, inputs: Arrays, _: Rows) -> Arrays:
                return inputs

        class Child(Base):
            def preprocess(self, inputs: Arrays, rows: Rows) -> Arrays:
                return {name: -a for name, a in super().preprocess(inputs, rows).items()}

        base, child = (Hooks(preprocess=each().preprocess).facts() for each in (Base, Child))
        assert len(base["preprocess"]["source"]) == 1
        assert child["preprocess"]["source"][1:] == base["preprocess"]["source"]
        assert "-a for name" in child["preprocess"]["source"][0]

    def test_the_source_of_a_task_counts_beside_its_version(self) -> None:
        class Negative(InferenceTask):
            version = 1

            def preprocess(self, inputs: Arrays, _: Rows) -> Arrays:
                return {name: -a for name, a in inputs.items()}

        facts = Negative(model_name="m").hooks.facts()  # type: ignore[call-arg]
        assert "-a for name" in facts["preprocess"]["source"][0]

    def test_what_a_hook_uses_of_its_module_counts(self, tmp_path: Path) -> None:
        base = """
            from pathlib import Path

            GAIN, BAND, CACHE, n_calls = 2.0, (20, 300), {}, 0

            def helper(a):
                return inner(a) * [GAIN for _ in range(2)][0]

            def inner(a):
                return a + 1

            def unused(a):
                return a

            class Scale:
                offset = 3

                def __init__(self, factor):
                    self.factor = factor

                def preprocess(self, inputs, rows):
                    global n_calls
                    n_calls += 1
                    CACHE[n_calls] = inputs
                    return {"x": helper(inputs["x"]) * self.factor + self.offset - self.mean}

                @property
                def mean(self):
                    return BAND[0]
        """

        def facts(old: str = "", new: str = "", factor: float = 1.0, n_calls: int = 0) -> Any:
            assert old in base
            file = tmp_path / f"made_{len(list(tmp_path.iterdir()))}.py"
            file.write_text(textwrap.dedent(base.replace(old, new)))
            specification = importlib.util.spec_from_file_location("made", file)
            assert specification is not None
            assert specification.loader is not None
            module = importlib.util.module_from_spec(specification)
            specification.loader.exec_module(module)
            scale = module.Scale(factor)
            for _ in range(n_calls):
                scale.preprocess({"x": 0}, None)
            return Hooks(preprocess=scale.preprocess).facts()

        assert facts() == facts(n_calls=2) == facts("return a\n", "return -a\n")
        for changed in ("= 2.0", "= 3.0"), ("a + 1", "a - 1"), ("(20,", "(30,"):
            assert facts() != facts(*changed)
        for changed in ("offset = 3", "offset = 4"), ("BAND[0]", "BAND[1]"):
            assert facts() != facts(*changed)
        assert facts() != facts(factor=2.0)

    def test_what_a_closure_has_counts(self) -> None:
        def times(gain: float) -> Hooks:
            return Hooks(preprocess=lambda inputs, _: {"x": gain * inputs["x"]})

        assert times(2.0).facts() == times(2.0).facts() != times(3.0).facts()

    def test_a_version_counts(self) -> None:
        class Hook:
            version = 1

            def __call__(self, inputs: Arrays, _: Rows) -> Arrays:
                return inputs

        one, two = Hook(), Hook()
        two.version = 2
        assert Hooks(preprocess=one).facts() != Hooks(preprocess=two).facts()

    def test_without_a_source_a_version_is_wanted(self) -> None:
        written = functools.partial(scale)
        with pytest.raises(ParameterError, match=r"preprocess: its source.*attribute version"):
            Hooks(preprocess=written).facts()
        written.version = "3"  # type: ignore[attr-defined]
        assert Hooks(preprocess=written).facts()["preprocess"] == {"source": [], "version": "3"}

    def test_block_rows_count(self) -> None:
        hooks = Hooks(postprocess=loud)
        assert hooks.facts() != replace(hooks, block_rows=64).facts()
        assert Hooks(block_rows=64).facts() == {}


def test_an_output_stays_complete_without_its_input_but_not_with_other_options(
    server: TritonInstance, rows_file: Path
) -> None:
    def job(output_dir: str, **options: Any) -> FileJob:
        asked = InferenceOptions(model_name="rows", cast=True, **options)
        [job] = plan_files(asked, [(rows_file,)], rows_file.parent / output_dir, model_stamp="m")
        return job

    infer_files(NamedServer(server.endpoint), [job("some", keep="y[0] > 0"), job("all")])
    rows_file.unlink()
    assert job("some", keep="y[0] > 0").is_complete()
    assert not job("some", keep="y[0] > 1").is_complete()
    assert not job("some").is_complete()
    rows_file.with_name("other.h5").symlink_to(rows_file)
    assert job("all").is_complete()
    assert not replace(job("all"), input_files=(rows_file.with_name("other.h5"),)).is_complete()


def test_predictions_with_different_hooks_do_not_belong_together(
    server: TritonInstance, rows_file: Path
) -> None:
    (rows_file.parent / "other.h5").write_bytes(rows_file.read_bytes())
    inputs = [(rows_file,), (rows_file.parent / "other.h5",)]
    options = InferenceOptions(model_name="rows", cast=True)
    out = rows_file.parent / "out"
    one, two = plan_files(options, inputs, out, model_stamp="m")

    def negative(outputs: Arrays, _: Rows) -> Arrays:
        return {"y": -outputs["y"]}

    hooked = replace(two, hooks=Hooks(postprocess=negative))
    infer_files(NamedServer(server.endpoint), [one, hooked])
    with pytest.raises(DataError, match=r"rows\.h5: was made with hooks '', but .*other\.h5 with"):
        find_predictions([str(out / "*.h5")])
    infer_files(NamedServer(server.endpoint), [replace(one, hooks=hooked.hooks)])
    assert len(find_predictions([str(out / "*.h5")])) == 2
