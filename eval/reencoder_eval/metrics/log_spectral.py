"""Log-spectral distance, by which bandwidth extension is often compared: full, low and high band.

LSD is the mean over frames of the root mean square over bins of the difference of log10 power, with a 2048-point STFT,
hop 512, and power clamped at 1e-8. So it is in powers of ten: a gain of g dB costs |g| / 10.

Every bin counts alike, however quiet, and almost nothing is clamped (a full-scale sine has a power of 54 dB here): an
estimate that is digitally silent above its cutoff scores far worse than one with inaudible noise there.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from reencoder_eval.metrics.spectral import (
    BAND_SILENCE_DBFS,
    BANDS,
    EDGE_HZ,
    SILENCE_DBFS,
    filter_band,
    level_dbfs,
    require_comparable,
)

LSD_METRICS = tuple(f"lsd_{band}" for band in BANDS)
FRAME, HOP = 2048, 512
SMALLEST_POWER = 1e-8


def log_spectral_distance(
    estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int, edge_hz: float = EDGE_HZ
) -> dict[str, float | None]:
    """LSD_METRICS of one channel of one clip, (samples,) both: over all bins, those below `edge_hz`, and the others.

    No filter is applied, unlike in STFT-D. None as for that: everything where the reference is silent, a band where the
    reference is silent in it. EvaluationError when the two cannot be compared: other lengths, too short, not finite.
    """
    require_comparable(estimate, reference)
    scores: dict[str, float | None] = dict.fromkeys(LSD_METRICS)
    if level_dbfs(reference) < SILENCE_DBFS:
        return scores
    squares = torch.square(_log_power(estimate) - _log_power(reference))  # (bins, T)
    edge = math.ceil(edge_hz * FRAME / sample_rate)
    for band, bins in zip(BANDS, (slice(None), slice(edge), slice(edge, None)), strict=True):
        if level_dbfs(filter_band(reference, band, sample_rate=sample_rate, edge_hz=edge_hz)) >= BAND_SILENCE_DBFS:
            scores[f"lsd_{band}"] = float(squares[bins].mean(dim=0).sqrt().mean())
    return scores


def _log_power(signal: np.ndarray) -> Tensor:
    """(samples,) -> (bins, T)"""
    audio = torch.from_numpy(np.ascontiguousarray(signal, dtype=np.float32))
    spectrum = torch.stft(audio, FRAME, HOP, window=_window(), return_complex=True)
    return (spectrum.real**2 + spectrum.imag**2).clamp(min=SMALLEST_POWER).log10()


@cache
def _window() -> Tensor:
    return torch.hann_window(FRAME)
