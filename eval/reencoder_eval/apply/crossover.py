"""A linear-phase crossover: below a frequency the original, above it the estimate, and at no frequency both in full."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from reencoder_eval.apply.files.scratch import Samples, Scratch

TRANSITION_HZ = 600.0
ATTENUATION_DB = 90.0


def crossed(
    original: Scratch, estimate: Scratch, start: int, stop: int, *, edge_hz: float, sample_rate: int
) -> Samples:
    """Samples [start, stop) of estimate + lowpass(original - estimate), both (channels, samples) and in time.

    The two filters of a crossover sum to one, so one of them is enough, and where original and estimate agree nothing
    happens. Below `edge_hz` - 300 the estimate's errors are 90 dB down, and so is the original above `edge_hz` + 300.
    """
    from scipy.signal import oaconvolve

    taps = lowpass(edge_hz, sample_rate=sample_rate)
    reach = len(taps) // 2
    y = estimate.read_mirrored(start - reach, stop + reach)
    x = original.read_mirrored(start - reach, stop + reach)
    low = oaconvolve(x - y, taps[None], mode="valid", axes=1)
    return (y[:, reach : y.shape[1] - reach] + low).astype(np.float32)


@cache
def lowpass(edge_hz: float, *, sample_rate: int) -> np.ndarray:
    """Symmetric taps, an odd number of them, so that the delay is of whole samples and can be taken out."""
    from scipy.signal import firwin

    half_width = TRANSITION_HZ / sample_rate * np.pi
    num_taps = int(np.ceil((ATTENUATION_DB - 7.95) / (2.285 * 2 * half_width))) | 1  # Kaiser's formulas
    window: Any = ("kaiser", 0.1102 * (ATTENUATION_DB - 8.7))
    return np.asarray(firwin(num_taps, edge_hz, window=window, fs=sample_rate))
