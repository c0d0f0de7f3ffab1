"""The report says everything there is to say, and its page needs nothing but itself."""

import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hermes.aeriel.metrics._metrics import MetricsResult
from hermes.aeriel.metrics._requirements import evaluate_requirements, parse_requirement
from hermes.aeriel.report._page import render_report
from hermes.aeriel.report._plots import MINUS, SERIES
from hermes.aeriel.report._report import build_report, write_report_html, write_report_json
from hermes.aeriel.serve._nvml import why_no_gpu
from hermes.aeriel.validation._validation import FilePredictions, describe_inputs, finite_warnings
from hermes.errors import DataError, MissingExtraError, OutputError
from tests.metrics import compute_metrics
from tests.workflows.conftest import Luigi

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

HOSTILE = "<script>alert('1')</script>\"&\n'é.h5"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects what a page says, holds and points to; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"href", "src", "xlink:href"}:
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def classification(n_classes: int = 3) -> MetricsResult:
    random = np.random.default_rng(0)
    labels = np.arange(300) % n_classes
    logits = random.normal(size=(300, n_classes)) + 2 * np.eye(n_classes)[labels]
    names = ["accuracy", "top_2_accuracy", "log_loss", "roc_auc", "confusion_matrix"]
    return compute_metrics(names, logits, labels, offsets=[0, 100, 200, 300])


def regression() -> MetricsResult:
    random = np.random.default_rng(0)
    targets = random.normal(size=300) * 100
    predictions = targets + random.normal(size=300)
    return compute_metrics(["mse", "r2", "reference"], predictions, targets)


def a_report(metrics: MetricsResult | None, requirement: str | None, name: str) -> dict[str, Any]:
    requirements = [parse_requirement(requirement)] if requirement else []
    latency = {"p50": 1.5, "p90": np.float32(2.5), "p99": 3}
    files = [
        {"file": f"/data/{name}-{index}", "rows": 100, "rows_per_s": 50.0, "latency_ms": latency}
        for index in range(3)
    ]
    return build_report(
        title=f"Validation of {name}",
        model={"name": name, "version": 1, "repository": Path("/models") / name, "platform": None},
        server={"version": "2.60.0", "address": "localhost:8001", "gpus": [0, 3]},
        inputs=[{"file": file["file"], "rows": file["rows"]} for file in files],
        metrics=metrics,
        requirements=evaluate_requirements(requirements, metrics.scalars) if metrics else (),
        throughput={
            "rows_per_s": 49.5,
            "megabytes_per_s": 1e-3,
            "seconds": 3725.0,
            "requests": np.int64(12345),
            "latency_ms": latency,
            "retries": 1,
            "failures": 0,
            "files": files,
        },
        parameters={
            "inputs": name,
            "workers": 3,
            "wait": True,
            "nothing": None,
            "nested": {"a": [1]},
        },
        versions={"hermes": "0.1.0", name: "1"},
        outputs={"predictions": f"/out/{name}", "elsewhere": "/other/x"},
        directory=Path("/out"),
    )


REPORTS = {
    "classification": lambda: a_report(classification(), "accuracy >= 0.5", "data.h5"),
    "binary": lambda: a_report(classification(2), "accuracy >= 0.999", "data.h5"),
    "many classes": lambda: a_report(classification(30), "log_loss < 9", "data.h5"),
    "regression": lambda: a_report(regression(), "r2 > 2", "data.h5"),
    "no targets": lambda: a_report(None, None, "data.h5"),
    "hostile": lambda: a_report(classification(), "accuracy >= 0.5", HOSTILE),
    "bare": lambda: build_report(title="Nothing but a title"),
}


@pytest.fixture(params=list(REPORTS))
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    return REPORTS[request.param]()


def test_a_report_survives_json(report: dict[str, Any], tmp_path: Path) -> None:
    write_report_json(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_the_page_is_whole_and_points_to_nothing_outside(report: dict[str, Any]) -> None:
    text = render_report(report)
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    for link in page.links:
        assert link.startswith(("#", "data:image/png;base64,", "./"))
    assert not re.search(r"(https?|ftp|file):|@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert report["title"] in page.text


def test_the_page_of_a_report_read_from_json_is_the_same(report: dict[str, Any]) -> None:
    assert render_report(json.loads(json.dumps(report))) == render_report(report)


@pytest.mark.parametrize(
    ("name", "plots"),
    [
        (
            "classification",
            ["ROC", "Precision and recall", "Calibration", "Scores", "Speed of each file"],
        ),
        ("regression", ["Predicted against true", "Residuals", "Speed of each file"]),
        (
            "many classes",
            ["ROC", "Precision and recall", "Calibration", "Scores", "Confusion matrix"],
        ),
        ("no targets", ["Speed of each file", "Latency of each file"]),
        ("bare", []),
    ],
)
def test_there_is_a_plot_for_what_was_measured(name: str, plots: list[str]) -> None:
    drawn = re.findall(r'<svg role="img" aria-label="([^"]*)"', render_report(REPORTS[name]()))
    assert drawn[: len(plots)] == plots


@pytest.mark.parametrize(
    ("name", "verdict", "sentence"),
    [
        ("classification", "passed", "The requirement is met."),
        ("regression", "failed", "1 of 1 requirement missed."),
        ("no targets", "no requirements", "Nothing was required of this run"),
    ],
)
def test_the_verdict_follows_from_the_requirements(name: str, verdict: str, sentence: str) -> None:
    report = REPORTS[name]()
    assert report["verdict"] == verdict
    assert sentence in Page(render_report(report)).text


def test_the_report_has_the_documented_keys() -> None:
    report = REPORTS["classification"]()
    assert list(report) == [
        *("schema", "title", "verdict", "created", "model", "server", "inputs", "rows", "metrics"),
        *(
            "requirements",
            "throughput",
            "parameters",
            "versions",
            "outputs",
            "notes",
            "confusion_matrix",
        ),
        *("intervals", "classes", "file_metrics", "worst_rows", "curves"),
    ]
    assert report["schema"] == 1
    created = datetime.fromisoformat(report["created"])
    assert timedelta(0) <= datetime.now(UTC) - created < timedelta(minutes=1)
    assert created.utcoffset() == timedelta(0)
    assert report["rows"] == 300
    assert report["outputs"] == {"predictions": "data.h5", "elsewhere": "../other/x"}
    assert report["notes"] == list(classification().notes)
    assert report["model"]["repository"] == "/models/data.h5"
    (requirement,) = report["requirements"]
    assert list(requirement) == "metric operator threshold value passed margin text".split()  # noqa: SIM905
    assert "reference" in REPORTS["regression"]()
    assert list(REPORTS["bare"]()) == ["schema", "title", "verdict", "created"]


def test_rows_come_from_the_metrics_where_no_file_has_them() -> None:
    assert build_report(title="", metrics=regression())["rows"] == 300


def test_numbers_are_shown_with_the_digits_a_reader_wants() -> None:
    scalars = {
        "a": 0.99999,
        "b": 1.0,
        "c": 12345.678,
        "d": 1e-7,
        "e": float("nan"),
        "f": -float("inf"),
    }
    text = Page(
        render_report(build_report(title="", metrics=MetricsResult(n_rows=1, scalars=scalars)))
    ).text
    for shown in ("0.99999A", "1B", "12,346C", "1e-07D", "NaNE", "-InfinityF"):
        assert shown in text
    hours = build_report(title="", throughput={"seconds": 3725.0})
    assert "1 h 2 min" in render_report(hours)
    minutes = build_report(title="", throughput={"seconds": 119.9})
    assert "2 min 0 s" in render_report(minutes)


def test_metrics_have_four_decimals_and_never_read_as_what_they_are_not() -> None:
    scalars = {"accuracy": 0.97, "log_loss": 0.098764, "mse": 0.9499996, "mae": 0.99999}
    requirements = [parse_requirement(text) for text in ("mse >= 0.95", "accuracy >= 0.95")]
    metrics = MetricsResult(n_rows=1, scalars=scalars)
    report = build_report(
        title="", metrics=metrics, requirements=evaluate_requirements(requirements, scalars)
    )
    page = render_report(report)
    for shown in ("0.9700", "0.0988", "0.99999"):
        assert f"<b>{shown}</b>" in page
    cells = re.findall(r'<td class="number">([^<]*)</td>', page)
    assert cells == ["&gt;= 0.95", "0.9499996", f"{MINUS}4e-07", "&gt;= 0.95", "0.9700", "0.0200"]


def test_parameters_that_are_not_set_are_not_shown() -> None:
    values = ("", "null", "[]", "{}", None)
    unset = {f"unset_{number}": value for number, value in enumerate(values)}
    text = Page(render_report(build_report(title="", parameters={"rtol": "1e-5", **unset}))).text
    assert "rtol1e-5" in re.sub(r"\s", "", text)
    assert "unset" not in text


def test_warnings_are_the_first_lines() -> None:
    report = build_report(title="T", warnings=["gpus=0 was requested, but <none>"])
    assert report["warnings"] == ["gpus=0 was requested, but <none>"]
    page = Page(render_report(report)).text
    assert page.index("gpus=0 was requested, but <none>") < page.index("No requirements")
    assert "warnings" not in build_report(title="T")
    assert 'class="warning"' not in render_report(build_report(title="T"))


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU here")
def test_a_gpu_that_no_driver_shows_is_in_the_first_lines(
    luigi: Luigi, models: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ["--model-repository", str(models), "--model-name", "double", "--gpus", "[0]"]
    arguments += ["--inputs", "data/part-1.h5", "--input-map", '{"x": "x"}']
    result = luigi(
        "--module", "workflows.validate", "Validate", *arguments, "--output-dir", "results"
    )
    assert result.returncode == 0, result.stdout
    page = Page((tmp_path / "results" / "report.html").read_text()).text
    assert page.index("gpus=0 was requested, but ") < page.index("No requirements")


def write_predictions(file: Path, **attributes: Any) -> None:
    with h5py.File(file, "w") as opened:
        opened.attrs["input_file"] = f"/data/{file.name}"
        opened.attrs["rows"] = 10
        opened.attrs["started"] = opened.attrs["created"] = "2025-03-01T10:00:00+00:00"
        opened.attrs["fingerprint"] = file.name
        opened.attrs["statistics"] = json.dumps({"latencies": {}})
        opened.attrs.update(attributes)


def test_predictions_that_are_made_anew_are_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.h5"
    with pytest.raises(DataError, match="does not exist"):
        FilePredictions.read(file)
    for rows in (10, 11):
        write_predictions(file, rows=rows)
        os.utime(file, ns=(0, rows))
        assert FilePredictions.read(file).rows == rows
        assert FilePredictions.read(file) is FilePredictions.read(file)
    file.unlink()
    with pytest.raises(DataError, match="does not exist"):
        FilePredictions.read(file)


def test_what_is_not_finite_is_counted_by_file_and_in_the_first_lines(tmp_path: Path) -> None:
    counts: dict[str, tuple[dict[str, int], dict[str, int]]] = {
        "a.h5": ({"x": 0}, {"y": 1000, "z": 0}),
        "b.h5": ({"x": 1}, {"y": 234, "z": 0}),
        "c.h5": ({"x": 0}, {"y": 1, "z": 0}),
    }
    for name, (inputs, outputs) in counts.items():
        write_predictions(
            tmp_path / name,
            not_finite_inputs=json.dumps(inputs),
            not_finite_outputs=json.dumps(outputs),
        )
    done = [FilePredictions.read(tmp_path / name) for name in counts]
    assert finite_warnings(done[:2]) == [
        "input x: 1 value is NaN or infinite, in /data/b.h5",
        "output y: 1,234 values are NaN or infinite, in /data/a.h5 and /data/b.h5",
    ]
    report = build_report(title="", warnings=finite_warnings(done), inputs=describe_inputs(done))
    assert report["warnings"][1].endswith(
        "1,235 values are NaN or infinite, in /data/a.h5 and 2 more files"
    )
    page = Page(render_report(report)).text
    assert page.index("1,235 values are NaN") < page.index("No requirements")
    assert "/data/a.h51001,000" in page  # 10 rows, no input, 1,000 outputs


def test_throughput_is_folded_below_the_metrics() -> None:
    page = render_report(REPORTS["classification"]())
    assert page.index("<h2>Metrics</h2>") < page.index("<details>\n<summary>Throughput: 49.5 rows")


def test_few_rows_are_drawn_as_points_and_many_as_a_map() -> None:
    random = np.random.default_rng(0)
    for n_rows, points in ((250, 500), (251, 0)):
        targets = random.normal(size=(n_rows, 2))
        metrics = compute_metrics(["mse"], targets + 0.1, targets, chunk_rows=100)
        page = render_report(build_report(title="", metrics=metrics))
        figure = page[page.index("plot-predicted") : page.index("plot-residuals")]
        assert (figure.count("<use ") >= 500) is bool(points)  # ticks are a few more
        assert ("<image " in figure) is not bool(points)
        if points:
            drawn = metrics.curves["predicted_vs_true"]["points"]
            assert drawn["true"] == targets.ravel().tolist()
            assert drawn["predicted"] == (targets + 0.1).ravel().tolist()


def test_plots_take_the_colours_of_the_scheme() -> None:
    page = render_report(REPORTS["classification"]())
    style, body = page.split("</style>", maxsplit=1)
    for colour in SERIES:
        assert colour in style
        assert colour not in body
    for index in range(3):
        assert style.count(f"--series-{index}:") == 3  # light, dark, print
        assert f"var(--series-{index})" in body


def test_plots_are_the_same_whatever_the_users_matplotlibrc_says() -> None:
    import matplotlib as mpl

    report = REPORTS["classification"]()
    page = render_report(report)
    with mpl.rc_context({"text.usetex": True, "font.size": 40, "axes.grid": True}):
        assert render_report(report) == page


def test_a_wide_table_can_be_scrolled_and_says_so() -> None:
    page = render_report(REPORTS["classification"]())
    assert page.count('<div class="scroll" tabindex="0">') == page.count('<div class="scroll"') == 7
    # Of each class, the metrics and the speed of each file, the worst rows; three classes fit.
    assert page.count('<p class="hint">') == 4
    ten = a_report(classification(10), None, "data.h5")
    assert render_report(ten).count('<p class="hint">') == 5


def test_numbers_that_json_lacks_are_strings_that_float_reads(tmp_path: Path) -> None:
    scalars = {"mse": float("nan"), "mae": float("inf"), "r2": -float("inf")}
    requirements = evaluate_requirements([parse_requirement("mse < 1")], scalars)
    metrics = MetricsResult(n_rows=1, scalars=scalars)
    report = build_report(title="", metrics=metrics, requirements=requirements)
    write_report_json(tmp_path / "report.json", report)
    assert report["metrics"] == {"mse": "NaN", "mae": "Infinity", "r2": "-Infinity"}
    assert float(report["metrics"]["r2"]) == scalars["r2"]
    assert report["verdict"] == "failed"
    render_report(report)


def test_paths_that_are_no_unicode_can_be_reported(tmp_path: Path) -> None:
    name = os.fsdecode(b"run-\xff.h5")
    report = build_report(title=name, outputs={"predictions": name})
    write_report_json(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text())["title"] == name
    write_report_html(tmp_path / "report.html", report)
    assert 'href="./run-%FF.h5"' in (tmp_path / "report.html").read_text()


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / HOSTILE.replace("/", "")
    path.write_text("old")
    write_report_html(path, REPORTS["bare"]())
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_report_json, write_report_html])
def test_a_report_that_cannot_be_written_is_an_output_error(write: Any, tmp_path: Path) -> None:
    report = REPORTS["bare"]()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/report: cannot be written"):
        write(tmp_path / "file" / "report", report)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "folder", report)
    assert str(tmp_path / "folder") in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed"):
        render_report(REPORTS["bare"]())
