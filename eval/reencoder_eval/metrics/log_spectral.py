"""Log-spectral distance (LSD) in the full, low and high band, a common measure of bandwidth extension.

LSD is the mean over frames of the root mean square over bins of the difference of log10 power, with a 2048-point STFT,
hop 512, and power clamped at 1e-8. Its unit is a power of ten: a gain of g dB costs |g| / 10.

Every bin has the same weight, however quiet, and almost nothing is clamped (a full-scale sine has a power of 54 dB
here). An estimate that is digitally silent above its cutoff therefore scores far worse than one with inaudible noise.
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
    """LSD_METRICS of one channel of one clip, both (samples,): over all bins, those below `edge_hz`, and the others.

    Bands are bins; no filter is applied, unlike in STFT-D. A silent reference scores None in all bands (below -60 dBFS)
    or in the silent band (below -80).
    EvaluationError if lengths differ, the clip is too short, or a value is not finite.

    Example::

        log_spectral_distance(10 * music, music, sample_rate=44_100)["lsd_full"]  # 2.0: 20 dB
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
