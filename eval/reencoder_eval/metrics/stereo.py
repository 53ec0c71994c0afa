"""Measures a stereo estimate: STFT-D and mel-D of left, right, mid and side, and cues of level, coherence, position.

Distances alone mislead. Those of left and right reward a mono copy. That of the side ignores its sign, so swapped
channels score 0, and it has no bound for an almost empty side, so a near-mono reference has no side distances. The
cues complete them:

- side level: 10 log10 of side over mid energy of the whole clip
- coherence: normalised cross-correlation of left and right per band, over the whole clip (real part, -1 to 1; the
  magnitude would be the same for equal and opposite channels)
- level difference: 10 log10 of left over right energy per band and frame
- balance: natural logarithm of left over right energy of the whole clip (the paper's figure 3)

Bands are 1 ERB wide (Glasberg and Moore 1990), the ear's resolution. The lowest is as wide as one bin of the spectrum;
third-octaves would be narrower. Frames are 46 ms at 44.1 kHz, because the ear follows no faster motion.

Bands and frames count if the *reference* is audible in them (-80 dBFS or more), so they are the same for every system.
A channel counts as at most LIMIT_DB below its partner: larger differences sound alike, and their logarithms have no
bound. So a mono copy has a side level of -40 dB, and a hard-panned signal has a level difference of 40 dB and, because
one channel is empty, a coherence of 0. If only the estimate is silent in a band or frame, its level difference and
coherence there are 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reencoder_eval.metrics.spectral import (
    BAND_SILENCE_DBFS,
    SILENCE_DBFS,
    level_dbfs,
    mel_distance,
    require_comparable,
    stft_distance,
)
from reencoder_pipeline.errors import EvaluationError

VIEWS = ("left", "right", "mid", "side")
CUES = ("side_level_error", "side_level_abs", "coherence_error", "level_difference_error", "balance")
STEREO_METRICS = (*(f"{name}_{view}" for view in VIEWS for name in ("stft_d", "mel_d")), *CUES, "balance_reference")

NEAR_MONO_DB = -40.0  # side over mid; a stereo reference below it is mono with dither
LIMIT_DB = 40.0
FRAME, HOP = 2048, 1024


def score_stereo(estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int) -> dict[str, float | None]:
    """All STEREO_METRICS of one clip, both (2, samples).

    Distances and errors are 0 at best. `side_level_error` is signed: below 0 dB the estimate is too narrow. The two
    balances are values; their difference is the error.

    None stands in every metric if the reference is silent (below -60 dBFS), in the distances of a view (left, right,
    mid, side) in which it is silent, in side distances if it is near mono, and in cues if the estimate is silent (below
    -80 dBFS). EvaluationError if there are not two channels, lengths differ, the clip is too short, or a value is not
    finite.

    Example::

        score_stereo(music, music, sample_rate=44_100)["stft_d_left"]  # 0.0; music is float32 (2, samples)
    """
    _require_stereo(estimate, reference)
    scores: dict[str, float | None] = dict.fromkeys(STEREO_METRICS)
    if level_dbfs(reference) < SILENCE_DBFS:
        return scores
    for view, x, y in zip(VIEWS, _views(estimate), _views(reference), strict=True):
        if level_dbfs(y) >= SILENCE_DBFS and not (view == "side" and near_mono(reference)):
            scores[f"stft_d_{view}"] = stft_distance(x, y)
            scores[f"mel_d_{view}"] = mel_distance(x, y, sample_rate=sample_rate)
    scores["balance"], scores["balance_reference"] = balance(estimate), balance(reference)
    if level_dbfs(estimate) >= BAND_SILENCE_DBFS:
        side_level_error = side_level(estimate) - side_level(reference)
        scores["side_level_error"], scores["side_level_abs"] = side_level_error, abs(side_level_error)
        x, y = (_bands_of(signal, sample_rate=sample_rate) for signal in (estimate, reference))
        audible = 10 ** (BAND_SILENCE_DBFS / 10)
        bands, frames = y.power.mean(axis=(0, 1)) >= audible, y.power.mean(axis=0) >= audible  # (B,) and (T, B)
        scores["coherence_error"] = _mean(np.abs(x.coherence() - y.coherence())[bands])
        scores["level_difference_error"] = _mean(np.abs(_decibels(x.power) - _decibels(y.power))[frames])
    return scores


def near_mono(reference: np.ndarray) -> bool:
    """(2, samples): whether the side is below -60 dBFS or more than 40 dB below the mid."""
    _, _, mid, side = (level_dbfs(view) for view in _views(reference))
    return side < SILENCE_DBFS or side < mid + NEAR_MONO_DB


def side_level(stereo: np.ndarray) -> float:
    """(2, samples) -> side over mid energy in dB, within +-LIMIT_DB; 0 for silence."""
    _, _, mid, side = _views(stereo)
    return float(_decibels(_energies(side, mid)))


def balance(stereo: np.ndarray) -> float | None:
    """(2, samples) -> ln(E_left / E_right), within +-9.2 (LIMIT_DB); None for silence, below -80 dBFS."""
    if level_dbfs(stereo) < BAND_SILENCE_DBFS:
        return None
    return float(_decibels(_energies(*stereo)) * np.log(10) / 10)


@dataclass(frozen=True)
class _Bands:
    """Mean squares of left and right, `power` (2, T, B), and the mean of their products, `cross` (T, B)."""

    power: np.ndarray
    cross: np.ndarray

    def coherence(self) -> np.ndarray:
        """(B,)"""
        return self.cross.mean(axis=0) / np.sqrt(np.prod(_floored(self.power.mean(axis=1)), axis=0))


def _bands_of(stereo: np.ndarray, *, sample_rate: int) -> _Bands:
    from scipy.fft import rfft

    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(stereo, FRAME, axis=1)[:, ::HOP]  # (2, samples) -> (2, T, FRAME)
    spectra = np.asarray(rfft(frames * window), dtype=np.complex128)[..., 1:]
    left, right = spectra / np.sqrt(FRAME * np.square(window).sum() / 2)  # squared bins sum to the mean square
    erb_number = 21.4 * np.log10(1 + 0.00437 * np.fft.rfftfreq(FRAME, 1 / sample_rate)[1:])
    starts = np.unique(erb_number.astype(int), return_index=True)[1]  # a band without a bin does not exist
    products = (np.square(np.abs(left)), np.square(np.abs(right)), (left * right.conj()).real)
    *power, cross = (np.add.reduceat(product, starts, axis=-1) for product in products)  # (T, bins) -> (T, B)
    return _Bands(np.stack(power), cross)


def _views(stereo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(2, samples) -> VIEWS, (samples,) each: left, right, and half their sum and difference."""
    left, right = stereo
    return left, right, (left + right) / 2, (left - right) / 2


def _energies(*signals: np.ndarray) -> np.ndarray:
    return np.array([np.mean(np.square(signal, dtype=np.float64)) for signal in signals])


def _floored(pair: np.ndarray) -> np.ndarray:
    """(2, ...) energies, neither more than LIMIT_DB below both together, and never 0."""
    return np.maximum(pair, 10 ** (-LIMIT_DB / 10) * pair.sum(axis=0)) + 1e-20


def _decibels(pair: np.ndarray) -> np.ndarray:
    """(2, ...) energies -> the first over the second."""
    first, second = 10 * np.log10(_floored(pair))
    return first - second


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _require_stereo(estimate: np.ndarray, reference: np.ndarray) -> None:
    if estimate.shape != reference.shape or estimate.ndim != 2 or len(estimate) != 2:
        raise EvaluationError(
            "estimate and reference must have the same shape, (2, samples)",
            value=f"estimate {estimate.shape}, reference {reference.shape}",
            remedy="score systems with one output channel with score_channels",
        )
    for x, y in zip(estimate, reference, strict=True):
        require_comparable(x, y)
