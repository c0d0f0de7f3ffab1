"""What this code takes, as it was measured; docs/scaling.md says how."""

from benchmarks.scaling.model import Costs

# A client and a server on one host: tensors in shared memory.
LOCAL = Costs(
    client_s_per_request=2e-4,
    client_s_per_byte=8e-10,
    server_s_per_request=4e-4,
    server_s_per_byte=6e-10,
    wait_s=5e-4,
    file_s=0.015,
    job_s=2.6,
    server_start_s=4.0,
)
# On two hosts: tensors as bytes, over GRPC with mutual TLS.
REMOTE = Costs(
    client_s_per_request=4e-4,
    client_s_per_byte=3e-9,
    server_s_per_request=6e-4,
    server_s_per_byte=3e-9,
    wait_s=1e-3,
    file_s=0.015,
    job_s=2.6,
    server_start_s=4.0,
)
