"""Integrated loudness by ITU-R BS.1770-4, and gains that make signals equally loud."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK_SECONDS, STEP_SECONDS = 0.4, 0.1
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
OFFSET = -0.691  # cancels the gain of the K-weighting at 997 Hz

# The recommendation tabulates the two stages only for 48 kHz. These are the analogue filters behind that table; they
# give the table's numbers at 48 kHz and the same weighting at other rates.
SHELF_HZ, SHELF_Q, SHELF_DB, SHELF_SLOPE = 1681.974450955533, 0.7071752369554196, 3.999843853973347, 0.4996667741545416
HIGH_PASS_HZ, HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773


def integrated_loudness(audio: np.ndarray, *, sample_rate: int) -> float | None:
    """Audio (1 or 2, samples) -> LUFS; None if it is shorter than 400 ms or no block reaches -70 LUFS.

    Example::

        sine = np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)[None]
        integrated_loudness(sine, sample_rate=48_000)  # -3.01, as in the recommendation
    """
    from scipy.signal import sosfilt

    block, step = round(BLOCK_SECONDS * sample_rate), round(STEP_SECONDS * sample_rate)
    if audio.shape[-1] < block:
        return None
    weighted = sosfilt(k_weighting(sample_rate), audio.astype(np.float64), axis=-1)
    energy = np.pad(np.cumsum(np.square(weighted).sum(axis=0)), (1, 0))
    starts = np.arange(0, audio.shape[-1] - block + 1, step)
    powers = (energy[starts + block] - energy[starts]) / block
    powers = powers[_lufs(powers) > ABSOLUTE_GATE]
    if not len(powers):
        return None
    return float(_lufs(powers[_lufs(powers) > _lufs(powers.mean()) + RELATIVE_GATE].mean()))


def k_weighting(sample_rate: int) -> np.ndarray:
    """(2, 6) second-order sections: the head's high shelf, then the high-pass."""
    k = np.tan(np.pi * SHELF_HZ / sample_rate)
    high = 10 ** (SHELF_DB / 20)
    middle = high**SHELF_SLOPE
    shelf = [high + middle * k / SHELF_Q + k**2, 2 * (k**2 - high), high - middle * k / SHELF_Q + k**2]
    shelf += _denominator(k, SHELF_Q)
    k = np.tan(np.pi * HIGH_PASS_HZ / sample_rate)
    high_pass = _denominator(k, HIGH_PASS_Q)
    # The table's numerator is 1, -2, 1 without division by the denominator's first coefficient.
    return np.array([np.divide(shelf, shelf[3]), [1.0, -2.0, 1.0, *np.divide(high_pass, high_pass[0])]])


def matching_gains(loudness: Sequence[float | None], peaks: Sequence[float]) -> list[float]:
    """Factors that bring every signal to the loudness of the first one; 1 for a signal without a loudness.

    If one would exceed full scale, all are lowered by the same factor: none clips and they stay matched.
    """
    target = loudness[0]
    gains = [1.0 if target is None or one is None else 10 ** ((target - one) / 20) for one in loudness]
    highest = max(gain * peak for gain, peak in zip(gains, peaks, strict=True))
    return [gain / max(highest, 1.0) for gain in gains]


def _denominator(k: float, q: float) -> list[float]:
    return [1 + k / q + k**2, 2 * (k**2 - 1), 1 - k / q + k**2]


def _lufs(power: np.ndarray) -> np.ndarray:
    return OFFSET + 10 * np.log10(np.maximum(power, 1e-30))
