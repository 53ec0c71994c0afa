"""Distances between an estimate and its reference: STFT-D and mel-D in the full, low and high band, and SI-SDR.

These definitions reproduce the paper's table 1: auraloss 0.4.0 defaults, one call per clip, steep filters at 11,025 Hz.

- STFT-D: `MultiResolutionSTFTLoss()`: spectral convergence + L1 of log magnitudes, mean of three resolutions
- mel-D: `MelSTFTLoss(44100)`: the same two terms on 128 Slaney mel bands of one 1024-point STFT
- low, high: both signals pass a zero-phase FIR filter first

The estimate comes first and the reference second, because spectral convergence divides by the reference's norm. That
norm is over everything in a call, so a call takes one channel of one clip. Magnitudes are clamped at 1e-4, so the
distances depend on level.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from auraloss.freq import MultiResolutionSTFTLoss, STFTLoss
from torch import Tensor

from reencoder_pipeline.audio.mel import mel_filters
from reencoder_pipeline.errors import EvaluationError

BANDS = ("full", "low", "high")
METRICS = (*(f"{name}_{band}" for name in ("stft_d", "mel_d") for band in BANDS), "si_sdr")

EDGE_HZ = 11_025.0  # default edge between low and high band; modules trained on another low band set another
TAPS = 1023  # 216 Hz of transition: -80 dB is reached within 0.2 semitones of the edge
ATTENUATION_DB = 80.0
MEL_BANDS = 128

SILENCE_DBFS = -60.0  # a clip below this is not scored
# A third of the music measured has a high band below -60 dBFS that is not empty. Only bands near the rounding noise of
# 16-bit audio are not scored: there spectral convergence would divide by almost nothing.
BAND_SILENCE_DBFS = -80.0
SHORTEST = 2048  # samples; the longest FFT of STFT-D


def score(
    estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int, edge_hz: float = EDGE_HZ
) -> dict[str, float | None]:
    """All METRICS of one channel of one clip, both (samples,): STFT-D, mel-D (lower is better) and SI-SDR in dB.

    A silent reference (below -60 dBFS) scores None in every metric, a silent band (below -80) in both of its metrics.
    EvaluationError if lengths differ, the clip is too short, or a value is not finite.

    Example::

        score(music, music, sample_rate=44_100)["stft_d_full"]  # 0.0; music is float32 (samples,)
    """
    require_comparable(estimate, reference)
    scores: dict[str, float | None] = dict.fromkeys(METRICS)
    if level_dbfs(reference) < SILENCE_DBFS:
        return scores
    for band in BANDS:
        x, y = (filter_band(signal, band, sample_rate=sample_rate, edge_hz=edge_hz) for signal in (estimate, reference))
        if level_dbfs(y) >= BAND_SILENCE_DBFS:
            scores[f"stft_d_{band}"] = stft_distance(x, y)
            scores[f"mel_d_{band}"] = mel_distance(x, y, sample_rate=sample_rate)
    scores["si_sdr"] = si_sdr(estimate, reference)
    return scores


def score_channels(
    estimate: np.ndarray, reference: np.ndarray, sample_rate: int, *, edge_hz: float = EDGE_HZ
) -> dict[str, float | None]:
    """Both (channels, samples) -> the mean of the channels' scores, None if any channel has none."""
    channels = [score(x, y, sample_rate=sample_rate, edge_hz=edge_hz) for x, y in zip(estimate, reference, strict=True)]
    values = np.array([[channel[metric] for channel in channels] for metric in METRICS], dtype=float)  # None -> NaN
    means = {metric: float(value) for metric, value in zip(METRICS, values.mean(axis=1), strict=True)}
    return {metric: None if np.isnan(value) else value for metric, value in means.items()}


def stft_distance(estimate: np.ndarray, reference: np.ndarray) -> float:
    """STFT-D of one channel, both (samples,); 0 is best (paper, section 3.3.2)."""
    return _distance(_stft_loss(), estimate, reference)


def mel_distance(estimate: np.ndarray, reference: np.ndarray, *, sample_rate: int) -> float:
    """mel-D of one channel, both (samples,); 0 is best (paper, section 3.3.2)."""
    return _distance(_mel_loss(sample_rate), estimate, reference)


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, means removed (Le Roux et al. 2019); 200 dB if identical."""
    x, y = (signal.astype(np.float64) - signal.mean(dtype=np.float64) for signal in (estimate, reference))
    target = np.dot(x, y) / np.dot(y, y) * y
    ratio = np.dot(target, target) / max(float(np.dot(x - target, x - target)), 1e-20 * float(np.dot(y, y)))
    return float(10 * np.log10(max(ratio, 1e-20)))


def level_dbfs(signal: np.ndarray) -> float:
    """Root mean square of a whole array in dBFS; digital silence is -inf."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.mean(np.square(signal, dtype=np.float64))))


def filter_band(signal: np.ndarray, band: str, *, sample_rate: int, edge_hz: float = EDGE_HZ) -> np.ndarray:
    """(samples,) -> (samples,): the full signal or its "low" or "high" band, without delay."""
    if band == "full":
        return signal
    from scipy.signal import oaconvolve  # importing scipy.signal takes half a second

    filtered = oaconvolve(signal, band_filter(band, sample_rate=sample_rate, edge_hz=edge_hz), mode="same")
    return np.asarray(filtered, dtype=np.float32)


@cache
def band_filter(band: str, *, sample_rate: int, edge_hz: float = EDGE_HZ) -> np.ndarray:
    """(TAPS,) symmetric taps of the "low" or "high" band; an odd number, so that the delay is whole samples."""
    from scipy.signal import firwin

    window: Any = ("kaiser", 0.1102 * (ATTENUATION_DB - 8.7))  # Kaiser's formula for the attenuation
    return np.asarray(firwin(TAPS, edge_hz, window=window, pass_zero=band == "low", fs=sample_rate))


class MagnitudeSTFTLoss(STFTLoss):
    """auraloss' loss without computing the phase, which takes half the time and is unused at phase weight 0."""

    def stft(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        spectrum = torch.stft(x, self.fft_size, self.hop_size, self.win_length, self.window, return_complex=True)
        return torch.sqrt(torch.clamp(spectrum.real**2 + spectrum.imag**2, min=self.eps)), None


@cache
def _stft_loss() -> torch.nn.Module:
    loss = MultiResolutionSTFTLoss()
    resolutions: Any = loss.stft_losses
    loss.stft_losses = torch.nn.ModuleList(
        MagnitudeSTFTLoss(one.fft_size, one.hop_size, one.win_length) for one in resolutions
    )
    return loss


@cache
def _mel_loss(sample_rate: int) -> torch.nn.Module:
    loss = MagnitudeSTFTLoss(1024, 256, 1024)
    # auraloss builds this filterbank with librosa, which we do not depend on; `mel_filters` equals it to 1e-7.
    loss.scale, loss.fb = "mel", mel_filterbank(sample_rate)[None]
    return loss


def mel_filterbank(sample_rate: int) -> Tensor:
    """(MEL_BANDS, 513) Slaney mel filters of area 1; EvaluationError where a band falls between two FFT bins."""
    filters = mel_filters(1024, bands=MEL_BANDS, sample_rate=sample_rate)
    if empty := int((filters.sum(dim=1) == 0).sum()):
        raise EvaluationError(
            f"{empty} of {MEL_BANDS} mel bands hold no FFT bin, and mel-D would take the logarithm of zero",
            where="mel-D",
            value=f"sample rate {sample_rate} Hz",
            remedy="use an autoencoder of at most 48 kHz",
        )
    return filters


def _distance(loss: torch.nn.Module, estimate: np.ndarray, reference: np.ndarray) -> float:
    x, y = (torch.from_numpy(np.ascontiguousarray(s, dtype=np.float32))[None, None] for s in (estimate, reference))
    with torch.inference_mode():
        return float(loss(x, y))


def require_comparable(estimate: np.ndarray, reference: np.ndarray) -> None:
    if estimate.ndim != 1 or estimate.shape != reference.shape:
        raise EvaluationError(
            "estimate and reference must have the same shape, (samples,)",
            value=f"estimate {estimate.shape}, reference {reference.shape}",
            remedy="compensate the system's delay and cut its output to its input's length",
        )
    if len(reference) < SHORTEST:
        raise EvaluationError(
            f"a clip needs at least {SHORTEST} samples, one FFT of STFT-D",
            value=f"{len(reference)} samples",
            remedy="use longer clips",
        )
    if not (np.isfinite(estimate).all() and np.isfinite(reference).all()):
        raise EvaluationError("the audio holds values that are not finite numbers", remedy="check the system's weights")
