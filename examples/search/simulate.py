"""Strain of two simulated detectors, with and without injected chirps, in the layout of gwpy.

    python examples/search/simulate.py search

makes ``noise/`` (coloured noise, with one signal that the search is to find), ``injections/`` (the
same noise, with chirps at known times) and ``injections.h5`` (their times, masses and strengths).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 1024
DETECTORS = ("H1", "L1")
FIRST_GPS = 1_400_000_000
N_FILES = 8
FILE_S = 64
INJECTION_EVERY_S = 4
SUN_S = 4.925490947e-6  # the mass of the sun, as a time: G M / c^3

Array = NDArray[np.float64]


def amplitude_spectrum(frequency_hz: NDArray[np.floating[Any]]) -> Array:
    """Return the amplitude spectral density of the noise, in strain/sqrt(Hz).

    It has the shape of a ground-based detector's: a wall below 30 Hz, a slope of shot noise above.
    """
    f = np.maximum(frequency_hz, 10.0) / 100
    density: Array = 16e-48 * ((0.35 / f) ** 8 + 0.5 / f + 0.5 + f**2)
    return np.sqrt(density)


def noise(random: np.random.Generator, n_samples: int) -> Array:
    """Return coloured Gaussian noise."""
    frequency_hz = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    white = np.fft.rfft(random.normal(size=n_samples)) * np.sqrt(SAMPLE_RATE / 2)
    return np.fft.irfft(white * amplitude_spectrum(frequency_hz), n_samples)


def chirp(chirp_mass: float, phase: float, n_samples: int) -> Array:
    """Return the last samples of an inspiral, which ends with the last one.

    The leading order of the post-Newtonian expansion: Maggiore, Gravitational Waves (2008), vol. 1,
    equations 4.19 and 4.30.

    Parameters
    ----------
    chirp_mass
        In solar masses.
    phase
        At the end, in radians.
    n_samples
        How much of it.
    """
    mass_s = chirp_mass * SUN_S
    before_end_s = np.arange(n_samples, 0, -1) / SAMPLE_RATE
    frequency_hz = (5 / (256 * before_end_s)) ** (3 / 8) * mass_s ** (-5 / 8) / np.pi
    wave = before_end_s ** (-1 / 4) * np.cos(phase - 2 * (before_end_s / (5 * mass_s)) ** (5 / 8))
    wave[frequency_hz > 300] = 0
    n_taper = n_samples // 8
    wave[:n_taper] *= np.sin(np.linspace(0, np.pi / 2, n_taper)) ** 2
    return wave / np.linalg.norm(wave)


def optimal_snr(wave: Array) -> float:
    """Return the signal-to-noise ratio that a filter of just this wave would have."""
    spectrum = np.fft.rfft(wave) / SAMPLE_RATE
    density = amplitude_spectrum(np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)) ** 2
    return float(np.sqrt(4 * np.sum(np.abs(spectrum) ** 2 / density) * SAMPLE_RATE / len(wave)))


def inject(
    strain: dict[str, Array], random: np.random.Generator, end: int, mass: float, snr: float
) -> None:
    """Add a chirp of a network signal-to-noise ratio, whose end is a sample of the first one."""
    wave = chirp(mass, random.uniform(0, 2 * np.pi), SAMPLE_RATE)
    share = random.uniform(0.4, 0.6)  # of the power, in the first detector
    delay = int(random.uniform(-0.008, 0.008) * SAMPLE_RATE)
    for values, power, last in zip(
        strain.values(), (share, 1 - share), (end, end + delay), strict=True
    ):
        values[last - len(wave) : last] += wave * snr * np.sqrt(power) / optimal_snr(wave)


def write(file: Path, strain: dict[str, Array], gps: int) -> None:
    """Write what gwpy's ``TimeSeriesDict.write(file, format="hdf5")`` writes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as hdf5:
        for detector, values in strain.items():
            dataset = hdf5.create_dataset(f"{detector}:SIM-STRAIN", data=values)
            dataset.attrs.update(x0=float(gps), dx=1 / SAMPLE_RATE, xunit="s", unit="strain")


def main(directory: Path) -> None:
    """Make the files in a directory."""
    random = np.random.default_rng(20)
    injections = []
    for number in range(N_FILES):
        gps = FIRST_GPS + number * FILE_S
        name = f"HL-SIM_STRAIN-{gps}-{FILE_S}.h5"
        strain = {detector: noise(random, FILE_S * SAMPLE_RATE) for detector in DETECTORS}
        injected = {detector: values.copy() for detector, values in strain.items()}
        for second in range(INJECTION_EVERY_S, FILE_S, INJECTION_EVERY_S):
            mass, snr = random.uniform(15, 40), random.uniform(4, 16)
            inject(injected, random, second * SAMPLE_RATE, mass, snr)
            injections.append((gps + second, mass, snr))
        if number == N_FILES // 2:
            inject(strain, random, int(30.2 * SAMPLE_RATE), mass=25.0, snr=13.0)
        write(directory / "noise" / name, strain, gps)
        write(directory / "injections" / name, injected, gps)
    with h5py.File(directory / "injections.h5", "w") as hdf5:
        for name, values in zip(
            ("time", "chirp_mass", "snr"), np.transpose(injections), strict=True
        ):
            hdf5[name] = values


if __name__ == "__main__":
    main(Path(sys.argv[1]))
