"""Predicts listeners' ratings with two models of hearing, Zimtohrli and ViSQOL: mean opinion scores from 1 to 5.

Both are optional packages and work offline. They hear one channel at 48 kHz, so channels are scored separately and
averaged, and stereo effects do not count. Both predict ratings of codecs; neither was made for bandwidth extension.

- Zimtohrli: 5.0 for identical signals; almost insensitive to level (-6 dB costs 0.01); 0.4 s of computing per 10 s of
  audio
- ViSQOL, audio mode: 4.73 for identical signals, its maximum; compensates level and delay; 15 s of computing per 10 s
  of audio, 2.5 s with numba installed
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from reencoder_eval.metrics.spectral import BAND_SILENCE_DBFS, SILENCE_DBFS, level_dbfs
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.errors import EvaluationError

RATE = 48_000
# ViSQOL refuses less than 0.95 s. Zimtohrli corrupts memory below 0.1 s and never returns for a NaN.
SHORTEST_SECONDS = 1
PACKAGES = {"zimtohrli": "zimtohrli", "visqol": "visqol-python"}  # name of the import -> name for pip


def require_available(names: Iterable[str]) -> None:
    """EvaluationError for a module that cannot be imported."""
    for name in names:
        _imported(name)


def zimtohrli_mos(estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int) -> float | None:
    """Both (channels, samples) -> score from 1 to 5, the mean over channels; larger is better.

    None if a channel is silent (reference below -60 dBFS, estimate below -80). EvaluationError if the package zimtohrli
    is missing, shapes differ, the clip is shorter than 1 s, or a value is not finite.

    Example::

        zimtohrli_mos(music, music, sample_rate=44_100)  # 5.0; music is float32 (channels, samples)
    """
    measure = _imported("zimtohrli").mos_from_signals
    return _mean_over_channels(measure, estimate, reference, sample_rate=sample_rate)


def visqol_mos(estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int) -> float | None:
    """As zimtohrli_mos, by ViSQOL in audio mode (package visqol-python)."""
    model = _visqol()

    def measure(x: np.ndarray, y: np.ndarray) -> float:
        return model.measure_from_arrays(y, x, RATE).moslqo  # ViSQOL takes the reference first

    return _mean_over_channels(measure, estimate, reference, sample_rate=sample_rate)


def _mean_over_channels(
    measure: Callable[[np.ndarray, np.ndarray], float],
    estimate: np.ndarray,
    reference: np.ndarray,
    *,
    sample_rate: int,
) -> float | None:
    _require_clip(estimate, reference, sample_rate=sample_rate)
    if min(map(level_dbfs, reference)) < SILENCE_DBFS or min(map(level_dbfs, estimate)) < BAND_SILENCE_DBFS:
        return None
    x, y = (resample(signal, sample_rate, RATE) for signal in (estimate, reference))
    return float(np.mean([measure(*pair) for pair in zip(x, y, strict=True)]))


def _require_clip(estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int) -> None:
    if estimate.shape != reference.shape or estimate.ndim != 2 or estimate.shape[1] < SHORTEST_SECONDS * sample_rate:
        raise EvaluationError(
            f"estimate and reference must have the same shape, (channels, samples), of at least {SHORTEST_SECONDS} s",
            value=f"estimate {estimate.shape}, reference {reference.shape}",
            remedy="use longer clips, and cut the system's output to its input's length",
        )
    if not (np.isfinite(estimate).all() and np.isfinite(reference).all()):
        raise EvaluationError("the audio holds values that are not finite numbers", remedy="check the system's weights")


@cache
def _visqol() -> Any:
    model = _imported("visqol").VisqolApi()
    model.create(mode="audio")
    return model


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvaluationError(
            f"this score needs the package {PACKAGES[name]}",
            value=str(error),
            remedy=f"pip install 'reencoder[perceptual]', or pip install {PACKAGES[name]}",
        ) from None
