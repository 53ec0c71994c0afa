"""Baselines without weights: spectral folding with a fitted tilt (bwe) and a decorrelating upmix (m2s)."""

from __future__ import annotations

import numpy as np

from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_eval.metrics.spectral import EDGE_HZ

FIT_HZ = (2_000.0, 10_000.0)  # where the tilt of the low band is fitted
TAPS = 511  # of the filter that shapes the folded band, zero-phase
STEEPEST = 24.0  # dB per octave; limits fits to almost empty spectra
# Schroeder all-passes in series: enough echoes for a flat coherence, and too short (60 ms in all) to sound like a room.
ALL_PASS_MS = (4.31, 7.13, 11.27, 17.81, 19.37)
ALL_PASS_GAIN = 0.6
SIDE_DB = -9.0  # side below mid


def spectral_folding() -> Baseline:
    return Baseline(
        name="folding",
        label="Spectral folding",
        about="the low band mirrored at its edge, at the level that the low band's tilt (dB per octave) predicts",
        task="bwe",
        digest=digest_of("folding", 1),
        run=lambda audio, sample_rate: fold(audio[0], sample_rate=sample_rate)[None],
    )


def decorrelation() -> Baseline:
    return Baseline(
        name="decorrelation",
        label="Decorrelating all-pass",
        about=f"the mono signal as mid, and the same through all-pass filters as side, {-SIDE_DB:g} dB below",
        task="m2s",
        digest=digest_of("decorrelation", 1),
        run=lambda audio, sample_rate: decorrelate(audio[0], sample_rate=sample_rate),
    )


def fold(low: np.ndarray, *, sample_rate: int) -> np.ndarray:
    """Spectral folding: (samples,) with nothing above 11,025 Hz -> the same with a high band.

    Multiplying by (-1)^n mirrors the spectrum, f -> rate / 2 - f. A zero-phase filter then brings each frequency to the
    level of a line (dB over octaves) fitted to the clip's spectrum between 2 and 10 kHz. Silence and clips too short
    for the fit get no high band.
    """
    from scipy.signal import firwin2, oaconvolve

    if len(low) < TAPS or not np.any(low):
        return low
    mirrored = low * (1.0 - 2.0 * (np.arange(len(low)) % 2))
    frequencies, gains = _folding_gains(low, sample_rate=sample_rate)
    taps = firwin2(TAPS, frequencies, gains, fs=sample_rate)
    return (low + oaconvolve(mirrored, taps, mode="same")).astype(np.float32)


def _folding_gains(low: np.ndarray, *, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies from 0 to half the rate, and the gain of each after mirroring."""
    from scipy.signal import welch

    frequencies, power = welch(low, sample_rate, nperseg=min(2048, len(low)))
    level = 10 * np.log10(np.maximum(power, 1e-20))
    fitted = (frequencies >= FIT_HZ[0]) & (frequencies <= FIT_HZ[1])
    if fitted.sum() < 2:
        return frequencies, np.zeros_like(frequencies)
    slope, offset = np.polyfit(np.log2(frequencies[fitted]), level[fitted], 1)
    slope = float(np.clip(slope, -STEEPEST, 0.0))
    offset = float(level[fitted].mean() - slope * np.log2(frequencies[fitted]).mean())
    wanted = offset + slope * np.log2(np.maximum(frequencies, FIT_HZ[0]))
    gains = 10 ** (np.minimum(wanted - level[::-1], 0.0) / 20)  # level[::-1]: the level of the mirrored spectrum
    return frequencies, np.where(frequencies >= EDGE_HZ, gains, 0.0)


def decorrelate(mono: np.ndarray, *, sample_rate: int) -> np.ndarray:
    """(samples,) -> left and right (2, samples): mid + side and mid - side; the mid is the unchanged mono signal."""
    from scipy.signal import lfilter

    side = mono.astype(np.float64)
    for milliseconds in ALL_PASS_MS:
        delay = round(milliseconds * sample_rate / 1000)
        numerator, denominator = np.zeros(delay + 1), np.zeros(delay + 1)
        numerator[[0, delay]] = -ALL_PASS_GAIN, 1.0
        denominator[[0, delay]] = 1.0, -ALL_PASS_GAIN
        side = np.asarray(lfilter(numerator, denominator, side))
    side *= 10 ** (SIDE_DB / 20)
    return np.stack([mono + side, mono - side]).astype(np.float32)
