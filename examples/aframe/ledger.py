"""The injections of aframe's ledger, as far as its inference needs them."""

from __future__ import annotations

import functools
from typing import Any

import h5py
import numpy as np


@functools.cache
def read(file: str) -> dict[str, Any]:
    """Return the injections of a file: times, shifts, waveforms (injections, ifos, samples)."""
    with h5py.File(file) as hdf5:
        return {
            "sample_rate": hdf5.attrs["sample_rate"],
            "start": hdf5["parameters/injection_time"][:] - hdf5.attrs["coalescence_time"],
            "shift": hdf5["parameters/shift"][:],
            "waveforms": np.stack([hdf5[f"waveforms/{ifo}"][:] for ifo in ("h1", "l1")], axis=1),
        }


def inject(strain: Any, start_time: float, shifts_s: Any, injections: dict[str, Any]) -> Any:
    """Return strain (ifos, samples) with the injections that are made for these shifts."""
    strain = strain.copy()
    size = injections["waveforms"].shape[-1]
    begins = np.floor((injections["start"] - start_time) * injections["sample_rate"]).astype(int)
    chosen = (injections["shift"] == shifts_s).all(axis=1)
    chosen &= (begins > -size) & (begins < strain.shape[1])
    for number in np.flatnonzero(chosen):
        begin, wave = begins[number], injections["waveforms"][number]
        here = slice(max(0, begin), min(strain.shape[1], begin + size))
        strain[:, here] += wave[:, here.start - begin : here.stop - begin]
    return strain
