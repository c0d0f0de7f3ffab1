"""The injections of aframe's ledger, as far as its inference needs them."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np


def inject(strain: Any, start_time: float, shifts_s: Any, file: str) -> Any:
    """Return strain (ifos, samples) with the injections that are made for these shifts."""
    strain = strain.copy()
    with h5py.File(file) as hdf5:
        rate = hdf5.attrs["sample_rate"]
        times = hdf5["parameters/injection_time"][:] - hdf5.attrs["coalescence_time"] - start_time
        for number in np.flatnonzero((hdf5["parameters/shift"][:] == shifts_s).all(axis=1)):
            begin = int(times[number] * rate // 1)
            for channel, ifo in zip(strain, ("h1", "l1"), strict=True):
                wave = hdf5[f"waveforms/{ifo}"][number]
                here = slice(max(0, begin), max(0, min(len(channel), begin + len(wave))))
                channel[here] += wave[max(0, -begin) :][: here.stop - here.start]
    return strain
