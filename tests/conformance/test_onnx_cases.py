"""Single operators of ONNX, served: the cases of the `onnx` package itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import tritonclient.grpc as triton

from hermes.aeriel.serve import serve
from tests.conformance import SAMPLE
from tests.conformance.onnx_cases import NO_TYPE, node_cases, try_case, write_case


def test_served_operators_answer_as_onnxruntime_does(
    triton_home: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    cases = node_cases()[::SAMPLE]
    models, files = tmp_path / "models", tmp_path / "files"
    files.mkdir()
    for case in cases:
        write_case(models, case)
    options = ["--model-control-mode=explicit"]
    with (
        serve(models, ports="auto", gpus=[], server_args=options, wait=True) as server,
        triton.InferenceServerClient(server.endpoint.grpc) as admin,
        ThreadPoolExecutor(3) as pool,
    ):
        outcomes = list(pool.map(lambda case: try_case(case, server.endpoint, admin, files), cases))

    # Where they differ, so may the last bits.
    manifest = json.loads((triton_home / "current" / "manifest.json").read_text())
    versions = f"{manifest['versions']['onnxruntime']} served, {onnxruntime.__version__} here"
    record_property("onnxruntime", versions)
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    tried = len(outcomes) - verdicts["not for onnxruntime"]
    refused = [outcome for outcome in outcomes if outcome.verdict == "refused"]
    without_type = [outcome for outcome in refused if NO_TYPE in outcome.reason]
    record_property("cases", f"{len(outcomes)}, of which onnxruntime itself runs {tried}")
    for verdict in ("right", "refused", "wrong"):
        record_property(verdict, verdicts[verdict])
    record_property("refused for a type that Triton does not have", len(without_type))
    record_property("right in a file, too", sum(outcome.in_file for outcome in outcomes))
    record_property(
        "right, and onnxruntime itself beyond the case's tolerance",
        sum(bool(outcome.beyond) for outcome in outcomes),
    )

    assert verdicts["right"] > 0
    wrong = [outcome for outcome in outcomes if outcome.verdict == "wrong"]
    assert wrong == [], versions
    assert refused == without_type
