"""Leases on GPUs, which the kernel ends with their holder.

A server has exclusive use of the GPUs that it requests. A part of a GPU (MIG) is leased on its own;
the whole GPU is not available then. A server that requests no particular GPUs shares those that the
batch job or ``CUDA_VISIBLE_DEVICES`` names with other such servers.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from hermes.aeriel.serve._gpu_locks import (
    LOCKED,
    Holder,
    Locks,
    is_locked,
    newest_note,
    own_note,
    own_note_file,
    remove_note,
    write_note,
)
from hermes.aeriel.serve._gpu_names import claimed_gpus, named_gpus, order_doubt, visible_gpus
from hermes.aeriel.serve._gpus import GPU, GPURequest, check_parts, unusable
from hermes.aeriel.serve._nvml import list_gpus, why_no_gpu
from hermes.errors import GPUBusyError, ParameterError

logger = logging.getLogger(__name__)

__all__ = ["GPULease", "Holder", "gpu_holders", "gpu_warnings", "hold_gpus", "lease_gpus"]

POLL_S = 0.3
NOTE_S = 0.5


class GPULease:
    """GPUs that this process holds until it closes the lease or ends.

    Parameters
    ----------
    gpus
        The value of ``CUDA_VISIBLE_DEVICES``; None to leave it unchanged.
    uuids
        The GPUs that are locked.
    locks
        Their locks; None without any.

    Attributes
    ----------
    gpus
        As above.
    last_holders
        The servers of this user that held these GPUs before.
    """

    def __init__(
        self,
        gpus: tuple[int | str, ...] | None,
        uuids: Sequence[str] = (),
        locks: Locks | None = None,
    ) -> None:
        self.gpus = gpus
        self.last_holders = [note for uuid in uuids if (note := own_note(uuid)) is not None]
        self._uuids = tuple(uuids)
        self._locks = locks

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors of the locks, for processes that inherit them."""
        return () if self._locks is None else (self._locks.descriptor,)

    @property
    def notes(self) -> tuple[str, ...]:
        """The files that record the holder of each GPU."""
        return tuple(str(own_note_file(uuid)) for uuid in self._uuids)

    def sign(self, holder: Holder | None) -> None:
        """Record the holder of the GPUs; None removes the record."""
        for uuid in self._uuids:
            if holder is not None:
                write_note(uuid, holder)
            elif (note := own_note(uuid)) is not None and note.pid == os.getpid():
                remove_note(uuid)  # the note of another server that shares the GPU stays

    def close(self) -> None:
        """Release the GPUs, after removing the records of their holder."""
        if self._locks is not None:
            self.sign(None)
            self._locks.close()
            self._locks = None


def lease_gpus(request: GPURequest) -> GPULease:
    """Lease the requested GPUs: all of them, or none.

    Warnings about them (`gpu_warnings`) are logged.

    Raises
    ------
    GPUBusyError
        Another process uses one, or too few are free; the error names the holders.
    ParameterError
        The request can never be met on this machine.
    """
    if request.cpu:
        return GPULease(())
    gpus, environ = list_gpus(), os.environ
    if request.n_gpus is not None:
        lease = _lease_any(request.n_gpus, visible_gpus(gpus, environ))
    else:
        is_shared = request.gpus is None
        if request.gpus is None:
            wanted = claimed_gpus(gpus, environ) or []
        else:
            wanted = named_gpus(request.gpus, gpus, environ)
        for gpu in wanted:
            if (problem := unusable(gpu, environ)) is not None:
                raise ParameterError("gpus", f"{problem}, or omit this GPU")
        text = ", ".join(map(str, wanted))
        lease = GPULease(request.gpus, *_lock(wanted, len(wanted), wanted=text, shared=is_shared))
    for warning in gpu_warnings(request, gpus):
        logger.warning("%s", warning)
    return lease


@contextmanager
def hold_gpus(request: GPURequest, holder: Holder, timeout_s: float) -> Iterator[GPULease]:
    """Hold GPUs while the block lasts.

    Raises
    ------
    GPUBusyError
        They were not free within `timeout_s` seconds.
    ParameterError
        The request can never be met on this machine.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            lease = lease_gpus(request)
            break
        except GPUBusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)
    try:
        lease.sign(holder)
        yield lease
    finally:
        lease.close()


def gpu_holders(gpus: Sequence[GPU]) -> dict[str, object]:
    """Return the holders of leased GPUs, by UUID."""
    return {gpu.uuid: _holder(gpu) for gpu in gpus if is_locked(_locked(gpu))}


def gpu_warnings(request: GPURequest, gpus: Sequence[GPU] | None = None) -> list[str]:
    """Return warnings about a request, as sentences.

    For example, models run on the CPU where GPUs are requested and the driver shows none. The log,
    `hermes check` and the report show the warnings.

    Parameters
    ----------
    request
        The request.
    gpus
        The GPUs of this machine, where they are known already.
    """
    gpus = list_gpus() if gpus is None else gpus
    found = []
    if request.gpus and not gpus and (reason := why_no_gpu()) is not None:
        asked = ", ".join(map(str, request.gpus))
        found.append(f"gpus={asked} was requested, but {reason}: models run on the CPU")
    if not request.gpus and request.n_gpus != 0 and (doubt := order_doubt(gpus, os.environ)):
        found.append(doubt)
    return found


def _lease_any(n_gpus: int, visible: Sequence[GPU]) -> GPULease:
    """Lease so many of the GPUs that are free and idle; parts where there are no whole GPUs."""
    problems = {gpu: unusable(gpu, os.environ) for gpu in visible}
    usable = [gpu for gpu, problem in problems.items() if problem is None]
    candidates = [gpu for gpu in usable if gpu.whole is None] or usable
    if len(candidates) < n_gpus:
        seen = f"{n_gpus} are requested, but {len(candidates)} can be used here"
        raise ParameterError("n_gpus", "; ".join([seen, *filter(None, problems.values())]))
    check_parts(candidates[:n_gpus], "n_gpus")
    wanted = f"{n_gpus} of {len(candidates)} GPUs"
    uuids, locks = _lock(candidates, n_gpus, wanted=wanted, idle=True)
    return GPULease(uuids, uuids, locks)


def _lock(
    gpus: Sequence[GPU], n_gpus: int, *, wanted: str, shared: bool = False, idle: bool = False
) -> tuple[tuple[str, ...], Locks]:
    """Lock so many of these GPUs, the first that are free; with `idle`, those without a process.

    Raises
    ------
    GPUBusyError
        Too few are free; the error names what was `wanted`, and the holders.
    ParameterError
        This system does not support such locks.
    """
    taken: list[str] = []
    holders: dict[GPU, object] = {}
    try:
        locks = Locks()
        with ExitStack() as undo:
            undo.callback(locks.close)
            for gpu in gpus:
                if len(taken) == n_gpus:
                    break
                if idle and gpu.used_by is not None:
                    holders[gpu] = gpu.used_by
                elif _take(locks, gpu, shared=shared):
                    taken.append(gpu.uuid)
                else:
                    holders[gpu] = _holder(gpu)
            if len(taken) < n_gpus:
                states = [each.state for each in holders.values() if isinstance(each, Holder)]
                raise GPUBusyError(
                    wanted=wanted,
                    holders=tuple(f"{gpu} is held by {holder}" for gpu, holder in holders.items()),
                    states=tuple(filter(None, states)),
                )
            undo.pop_all()
    except OSError as error:
        problem = f"cannot lock {LOCKED}, which a lease on a GPU needs: {error}"
        raise ParameterError("gpus", problem) from error
    return tuple(taken), locks


def _take(locks: Locks, gpu: GPU, *, shared: bool) -> bool:
    if gpu.whole is None:
        return locks.take(gpu.uuid, shared=shared)
    if not locks.take(gpu.whole, shared=True):
        return False
    if locks.take(gpu.uuid, shared=shared):
        return True
    locks.release(gpu.whole)
    return False


def _holder(gpu: GPU) -> object:
    """Return the holder of a locked GPU; a process that has just locked it may still write it."""
    deadline = time.monotonic() + NOTE_S
    while (holder := newest_note(_locked(gpu))) is None and time.monotonic() < deadline:
        time.sleep(NOTE_S / 20)
    return holder or "an unknown process"


def _locked(gpu: GPU) -> str:
    """Return the UUID of the unit that is locked: a part of the GPU, itself, or its whole."""
    uuids = [*(part.uuid for part in gpu.parts or ()), gpu.uuid, gpu.whole]
    return next((uuid for uuid in uuids if uuid and is_locked(uuid)), gpu.uuid)
