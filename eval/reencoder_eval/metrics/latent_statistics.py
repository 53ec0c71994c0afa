"""Statistics of latents (clips, C, T): moments, independence of channels, structure in time, and L1 distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST_STD = 1e-8  # a channel with a smaller deviation counts as constant
UNUSED_SIGMA = 0.9  # a posterior this wide is almost the prior: the channel carries almost no information
CARRIED = 0.8  # of a sum over channels, the share that the counted channels carry


@dataclass(frozen=True)
class ChannelStatistics:
    """One value per channel over all clips and frames; None if it is undefined for a constant channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    excess_kurtosis: tuple[float | None, ...]
    lag1: tuple[float | None, ...]  # autocorrelation between a frame and the next
    upper_half: tuple[float | None, ...]  # share of the energy above half the latent Nyquist; 0.5 if white
    correlation: tuple[tuple[float, ...], ...]  # (C, C)
    effective_rank: float  # of the covariance
    effective_rank_correlation: float  # of the correlation, where every channel has the same weight
    mean_predictor_l1: float  # latent_l1 of an estimate that is each channel's mean


def channel_statistics(latents: np.ndarray) -> ChannelStatistics:
    values = latents.astype(np.float64)
    pooled = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)  # (N, C, T) -> (C, N * T)
    mean, std = pooled.mean(axis=1), pooled.std(axis=1)
    live = std > SMALLEST_STD
    centred = values - mean[:, None]
    scaled = np.where(live, 1 / np.where(live, std, 1), 0)[:, None] * (pooled - mean[:, None])
    covariance = np.cov(pooled, bias=True).reshape(len(std), len(std))
    correlation = scaled @ scaled.T / scaled.shape[1]
    return ChannelStatistics(
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        excess_kurtosis=_where(live, np.mean(scaled**4, axis=1) - 3),
        lag1=_where(live, lag1_autocorrelation(centred)),
        upper_half=_where(live, upper_half_share(centred)),
        correlation=tuple(tuple(row) for row in correlation.tolist()),
        effective_rank=effective_rank(covariance),
        effective_rank_correlation=effective_rank(correlation),
        mean_predictor_l1=float(np.abs(scaled).mean()),
    )


def effective_rank(matrix: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues' shares (Roy and Vetterli 2007); 0 for a matrix of zeros."""
    eigenvalues = np.clip(np.linalg.eigvalsh(matrix), 0, None)
    if eigenvalues.sum() <= SMALLEST_STD**2:
        return 0.0
    shares = eigenvalues / eigenvalues.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def lag1_autocorrelation(centred: np.ndarray) -> np.ndarray:
    """(N, C, T) with mean 0 per channel -> (C,); frames of different clips are never neighbours."""
    with np.errstate(invalid="ignore"):
        both_ends = (np.square(centred[..., :-1]) + np.square(centred[..., 1:])).sum(axis=(0, 2)) / 2
        return (centred[..., :-1] * centred[..., 1:]).sum(axis=(0, 2)) / both_ends


def upper_half_share(centred: np.ndarray) -> np.ndarray:
    """(N, C, T) with mean 0 per channel -> (C,): energy above a quarter of the frame rate, by Hann-windowed spectra."""
    frames = centred.shape[-1]
    power = np.square(np.abs(np.fft.rfft(centred * np.hanning(frames + 2)[1:-1], axis=-1))).sum(axis=0)  # (C, bins)
    weights = np.full(power.shape[-1], 2.0)  # each bin except 0 and Nyquist stands for two
    weights[0] = 1
    if frames % 2 == 0:
        weights[-1] = 1
    frequencies = np.fft.rfftfreq(frames)
    upper = np.where(np.isclose(frequencies, 0.25), 0.5, frequencies > 0.25)  # the bin at the border counts half
    with np.errstate(invalid="ignore"):
        return (power * weights * upper).sum(axis=1) / (power * weights).sum(axis=1)


def latent_l1(latents: np.ndarray, reference: np.ndarray, std: np.ndarray) -> float:
    """Both (..., C, T), std (C,) -> mean L1 in units of each channel's standard deviation, as in a training."""
    return float(np.mean(channel_l1(latents, reference, std)))


def channel_l1(latents: np.ndarray, reference: np.ndarray, std: np.ndarray) -> np.ndarray:
    """As latent_l1, for each channel: (C,)."""
    scale = np.where(std > SMALLEST_STD, std, 1.0)
    distance = np.abs(latents.astype(np.float64) - reference)
    return np.moveaxis(distance, -2, 0).reshape(len(std), -1).mean(axis=1) / scale


def relative_error(estimate: np.ndarray, reference: np.ndarray) -> float | None:
    """Norm of the difference divided by the norm of the reference; None if the reference is zero."""
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(estimate.astype(np.float64) - reference)) / norm if norm > SMALLEST_STD else None


def affine_fit(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Both (N, C, T) -> a * source + b, with a and b fitted to the target by least squares, per channel."""
    x, y = source.astype(np.float64), target.astype(np.float64)
    x_mean, y_mean = (values.mean(axis=(0, 2), keepdims=True) for values in (x, y))
    variance = np.square(x - x_mean).mean(axis=(0, 2), keepdims=True)
    covariance = ((x - x_mean) * (y - y_mean)).mean(axis=(0, 2), keepdims=True)
    slope = np.where(variance > SMALLEST_STD**2, covariance / np.where(variance > 0, variance, 1), 0)
    return slope * (x - x_mean) + y_mean


def channels_that_carry(amounts: Sequence[float], *, share: float = CARRIED) -> int:
    """The number of largest amounts that make up `share` of their sum; 0 if the sum is 0."""
    ordered = np.sort(np.asarray(amounts, dtype=np.float64))[::-1]
    if ordered.sum() <= SMALLEST_STD:
        return 0
    return int(np.searchsorted(np.cumsum(ordered) / ordered.sum(), share - 1e-12) + 1)


def _where(live: np.ndarray, values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(value) if alive else None for value, alive in zip(values, live, strict=True))
