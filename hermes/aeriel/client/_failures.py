"""Classifies failures of requests: which are transient, and what caused them."""

from __future__ import annotations

import os
import resource

from hermes.errors import InferenceError, RequestError, RequestTimeoutError, ServerTimeoutError

# Files that a connection opens besides its socket.
SPARE_FILES = 8
_TRANSIENT = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
# The beginning of an internal error while the server replaces a Python model that was killed.
_TRANSIENT_REASONS = ("Stub process", "is not ready to receive")
# Part of the error for a sequence that the server ended, or that it had before a restart.
_LOST_SEQUENCE = "must specify the START flag"
# Part of the error for a region that the server does not know, for example after a restart.
_UNKNOWN_REGION = "Unable to find shared memory region"
# Part of the error of Triton 2.50 and 2.51 for a region that a request uses, which it may still do
# for a short time after its answer.
_REGION_IN_USE = "it is currently in use"
# Part of the error for an output that is larger than in the model's configuration.
_SMALL_REGION = "bytes to hold the results"


def too_many_files() -> str:
    """Return an explanation if this process has too many open files; else an empty string."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        n_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (only counted)
    except OSError:  # listing the directory needs a file too
        n_open = limit
    if limit == resource.RLIM_INFINITY or n_open < limit - SPARE_FILES:
        return ""
    return (
        f"this process has {n_open} open files of at most {limit} and cannot connect: "
        "raise the limit (ulimit -n), or open fewer files"
    )


def is_transient(error: BaseException) -> bool:
    """Return whether a request or a connection failed for a transient reason."""
    if isinstance(error, RequestError):
        return (
            is_transient_status(error)
            or error.reason.startswith(_TRANSIENT_REASONS)
            or any(
                part in error.reason for part in (_UNKNOWN_REGION, _SMALL_REGION, _LOST_SEQUENCE)
            )
        )
    return isinstance(error, ServerTimeoutError | RequestTimeoutError)


def is_unknown_region(error: BaseException) -> bool:
    """Return whether the server does not know the shared-memory region of a request."""
    return isinstance(error, RequestError) and _UNKNOWN_REGION in error.reason


def is_small_region(error: BaseException) -> bool:
    """Return whether an output did not fit into its part of a shared-memory region."""
    return isinstance(error, RequestError) and _SMALL_REGION in error.reason


def is_transient_status(error: InferenceError) -> bool:
    """Return whether a request failed with gRPC's status of a transient failure."""
    return not isinstance(error, RequestError) or error.status in _TRANSIENT


def is_region_in_use(details: str) -> bool:
    """Return whether a region could not be unregistered because a request uses it."""
    return _REGION_IN_USE in details
