"""How far a stereo estimate is from its reference: STFT-D and mel-D of left, right, mid and side, and cues of space.

Distances alone mislead: those of left and right reward a mono copy, and that of the side is blind to its sign (swapped
channels score 0) and without bound for a side of almost nothing. So a near-mono reference has no side distances, and
cues of level, coherence and position stand beside them:

- side level: 10 log10 of side over mid energy, of the whole clip
- coherence: normalised cross-correlation of left and right (real part, -1 to 1; not its magnitude, which takes opposite
  channels for equal ones), by band, over the whole clip
- level difference: 10 log10 of left over right energy, by band and frame
- balance: natural logarithm of left over right energy of the whole clip (the paper's figure 3)

Bands are 1 ERB wide (Glasberg and Moore 1990), the ear's own resolution; the lowest is as wide as a bin of the
spectrum, while third-octaves would be narrower there. Frames are 46 ms at 44.1 kHz: the ear follows no faster motion.

Bands and frames count where the *reference* is audible, -80 dBFS or more: the same ones for every system. No channel
counts as more than LIMIT_DB below its partner: beyond that, levels are alike to the ear and logarithms are without
bound. So a mono copy has a side level of -40 dB, a hard-panned signal a level difference of 40 dB and, as one channel
is empty, a coherence of 0. A band or frame in which the estimate alone is silent has a difference of 0 and a coherence
of 0.
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

NEAR_MONO_DB = -40.0  # side over mid; below it a stereo reference is mono with dither
LIMIT_DB = 40.0
FRAME, HOP = 2048, 1024


def score_stereo(estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int) -> dict[str, float | None]:
    """Every metric of STEREO_METRICS for one clip, (2, samples) both.

    All are distances or errors, 0 at best, but for the two balances, whose difference is the error, and
    `side_level_error`, which is signed: below 0 dB the estimate is too narrow.

    None: everything for a silent reference, below -60 dBFS; the distances of a view (left, right, mid, side) in which
    it is silent; side distances of a near-mono one; cues of a silent estimate, below -80 dBFS. EvaluationError when
    the two cannot be compared: not two channels, other lengths, too short, not finite.
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
        scores["coherence_error"] = _mean(np.abs(x.coherence() - y.coherence())[y.audible_bands()])
        scores["level_difference_error"] = _mean(np.abs(x.level_difference() - y.level_difference())[y.audible()])
    return scores


def near_mono(reference: np.ndarray) -> bool:
    """(2, samples): whether its side is below -60 dBFS, or more than 40 dB below its mid; no side to be estimated."""
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
    """`power` (2, T, B): mean squares of left and right. `cross` (T, B): mean of their products."""

    power: np.ndarray
    cross: np.ndarray

    def audible(self) -> np.ndarray:
        """(T, B)"""
        return self.power.mean(axis=0) >= 10 ** (BAND_SILENCE_DBFS / 10)

    def audible_bands(self) -> np.ndarray:
        """(B,)"""
        return self.power.mean(axis=(0, 1)) >= 10 ** (BAND_SILENCE_DBFS / 10)

    def coherence(self) -> np.ndarray:
        """(B,)"""
        return self.cross.mean(axis=0) / np.sqrt(np.prod(_floored(self.power.mean(axis=1)), axis=0))

    def level_difference(self) -> np.ndarray:
        """(T, B) in dB"""
        return _decibels(self.power)


def _bands_of(stereo: np.ndarray, *, sample_rate: int) -> _Bands:
    from scipy.fft import rfft

    window = np.hanning(FRAME + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(stereo, FRAME, axis=1)[:, ::HOP]  # (2, samples) -> (2, T, FRAME)
    spectra = np.asarray(rfft(frames * window), dtype=np.complex128)[..., 1:]
    left, right = spectra / np.sqrt(FRAME * np.square(window).sum() / 2)  # squares add up to the mean square
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
            "estimate and reference are two channels of equal length each",
            value=f"estimate {estimate.shape}, reference {reference.shape}",
            remedy="score systems with one output channel by score_channels",
        )
    for x, y in zip(estimate, reference, strict=True):
        require_comparable(x, y)
