"""What a GPU machine's server says, from the text of one."""

import re

from hermes.aeriel.monitor._sample import Sample, gpu_rows, parse_metrics

# What Triton 2.51 wrote on a machine with two GPUs, shortened.
METRICS = """\
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.37
nv_gpu_utilization{gpu_uuid="GPU-2"} 0
# HELP nv_gpu_memory_total_bytes GPU total memory, in bytes
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 85520809984
nv_gpu_memory_total_bytes{gpu_uuid="GPU-2"} 85520809984
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 7.2e9
# HELP nv_gpu_power_usage GPU power usage in watts
# TYPE nv_gpu_power_usage gauge
nv_gpu_power_usage{gpu_uuid="GPU-1"} 118.25
"""


def test_a_gpu_is_a_row() -> None:
    first, second = gpu_rows(parse_metrics(METRICS))
    assert first == {
        "kind": "gpu",
        "name": "GPU-1",
        "utilisation": 0.37,
        "memory_used_bytes": 7_200_000_000,
        "memory_total_bytes": 85_520_809_984,
        "power_w": 118.25,
    }
    assert "power_w" not in second


def test_a_gpu_that_triton_has_not_asked_for_yet_has_no_numbers() -> None:
    """All are 0 in the first two seconds of a server, as on an H200."""
    zeros = re.sub(r"} .*", "} 0", METRICS)
    assert gpu_rows(parse_metrics(zeros)) == [
        {"kind": "gpu", "name": "GPU-1"},
        {"kind": "gpu", "name": "GPU-2"},
    ]


def of(server_id: str = "a", model: str = "m", **counters: float) -> Sample:
    row = {"kind": "model", "name": model, "version": "1", **counters}
    return Sample(server_id=server_id, rows=[row, {"kind": "gpu", "name": "GPU-1"}])


def test_a_server_is_another_one_by_name_or_by_a_counter_that_is_lower() -> None:
    assert not of(requests=5).is_of_another_server(of(requests=5))
    assert not of(requests=6).is_of_another_server(of(requests=5))
    assert of(requests=4).is_of_another_server(of(requests=5))
    assert of(queue_s=0.0).is_of_another_server(of(queue_s=0.1))
    assert of("b", requests=5).is_of_another_server(of("a", requests=5))


def test_a_model_that_comes_or_goes_is_no_other_server() -> None:
    assert not of(model="m", requests=1).is_of_another_server(of(model="n", requests=5))
