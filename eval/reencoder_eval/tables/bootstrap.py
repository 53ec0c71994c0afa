"""Bootstrap intervals of means, medians and correlations, resampling whole tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % percentile interval."""

    value: float
    low: float
    high: float


def correlations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's correlation of x and y, (clips,) each, for each row of `weights` (resamples, clips) -> (resamples,).

    It is 0 where x or y does not vary.
    """
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    covariance = weights @ (x * y) / total - mean_x * mean_y
    variances = [weights @ (z * z) / total - mean * mean for z, mean in ((x, mean_x), (y, mean_y))]
    scale = np.sqrt(np.maximum(variances[0], 0) * np.maximum(variances[1], 0))
    still = scale < 1e-9  # below the rounding error of squares near 1
    return np.where(still, 0.0, covariance / np.where(still, 1.0, scale)).clip(-1, 1)


def resample_weights(tracks: Sequence[str], *, seed: int) -> np.ndarray:
    """(RESAMPLES, clips): the number of times each clip occurs in each resample of whole tracks."""
    if len(set(tracks)) == 1:  # with a single track, resample its clips instead
        tracks = [str(number) for number in range(len(tracks))]
    names, track_of_clip = np.unique(np.asarray(tracks), return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return counts[:, track_of_clip].astype(np.float64)


def weighted_mean(scores: np.ndarray, weights: np.ndarray) -> Interval:
    return bootstrap_interval(scores.mean(), weights @ scores / weights.sum(axis=1))


def weighted_median(scores: np.ndarray, weights: np.ndarray) -> Interval:
    order = np.argsort(scores)
    reached = np.cumsum(weights[:, order], axis=1)  # (resamples, clips): clips drawn up to and including this one
    half = reached[:, -1:] / 2
    below = scores[order][(reached >= half).argmax(axis=1)]
    above = scores[order][(reached > half).argmax(axis=1)]
    return bootstrap_interval(np.median(scores), (below + above) / 2)


def bootstrap_interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))
