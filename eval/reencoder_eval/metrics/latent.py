"""Distances in the autoencoder's own latent space: of one clip, and between the latents of two whole sets of clips.

They say nothing about another autoencoder, and what the autoencoder does not hear they do not see: no substitute for
distances of sound, but what a latent module was trained on, and a Fréchet distance without weights from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from reencoder_eval.metrics import latent_statistics
from reencoder_eval.metrics.latent_statistics import SMALLEST_STD
from reencoder_eval.metrics.spectral import SILENCE_DBFS, level_dbfs
from reencoder_pipeline.errors import EvaluationError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


def latent_l1(
    estimate: np.ndarray,
    reference: np.ndarray,
    *,
    autoencoder: Autoencoder,
    std: np.ndarray,
    device: torch.device | str = "cpu",
) -> float | None:
    """Mean L1 between E(estimate) and E(reference) of one clip, (channels, samples) both, in units of `std` (C,).

    With the standard deviations that a training was normalised by, it is that training's L1. None for a silent
    reference, below -60 dBFS.
    """
    if estimate.shape != reference.shape or estimate.ndim != 2:
        raise EvaluationError(
            "estimate and reference are (channels, samples) of equal length each",
            value=f"estimate {estimate.shape}, reference {reference.shape}",
            remedy="compensate the system's delay and cut its output to its input's length",
        )
    _require_channels(len(std), expected=autoencoder.spec.channels)
    if level_dbfs(reference) < SILENCE_DBFS:
        return None
    x, y = (encode_clip(signal, autoencoder=autoencoder, device=device) for signal in (estimate, reference))
    return latent_statistics.latent_l1(x, y, std)


@torch.inference_mode()
def encode_clip(audio: np.ndarray, *, autoencoder: Autoencoder, device: torch.device | str = "cpu") -> np.ndarray:
    """(channels, samples) -> (channels, C, T), or (1, C, T) of an autoencoder for joint stereo."""
    batch = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(device)
    joint = autoencoder.spec.stereo == "joint"
    return autoencoder.encode(batch[None] if joint else batch[:, None]).cpu().numpy()


@dataclass(frozen=True)
class FrechetStatistics:
    """Count, mean and scatter (the sum of outer products of deviations) of latent frames, in float64.

    `of` one clip after the other, added up in any order and grouping, equals `of` all of them, but for rounding.
    """

    count: int
    mean: np.ndarray  # (C,)
    scatter: np.ndarray  # (C, C)

    @classmethod
    def of(cls, latents: np.ndarray) -> FrechetStatistics:
        """(..., C, T), every frame of every item alike. EvaluationError for values that are not finite."""
        frames = np.moveaxis(latents, -2, 0).reshape(latents.shape[-2], -1).astype(np.float64)  # (..., C, T) -> (C, n)
        if not frames.size or not np.isfinite(frames).all():
            raise EvaluationError(
                "latents are not finite numbers, or there are none",
                value=f"latents {latents.shape}",
                remedy="check the audio they were encoded from",
            )
        mean = frames.mean(axis=1)
        deviations = frames - mean[:, None]
        return cls(frames.shape[1], mean, deviations @ deviations.T)

    def __add__(self, other: FrechetStatistics) -> FrechetStatistics:
        """Of the frames of both (Chan, Golub and LeVeque 1979)."""
        count, shift = self.count + other.count, other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return FrechetStatistics(count, mean, self.scatter + other.scatter + between)

    def covariance(self) -> np.ndarray:
        """(C, C); EvaluationError with fewer than C + 1 frames, which leave directions without any spread."""
        if self.count < (needed := len(self.mean) + 1):
            raise EvaluationError(
                "too few latent frames for a covariance",
                where="Fréchet distance",
                value=f"{self.count} frames of {len(self.mean)} channels",
                remedy=f"use more or longer clips: at least {needed} frames, and better ten times as many",
            )
        return self.scatter / (self.count - 1)


def frechet_distance(a: FrechetStatistics, b: FrechetStatistics, *, std: np.ndarray | None = None) -> float:
    """Squared Wasserstein-2 distance of two Gaussians: |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); symmetric.

    `std` (C,) brings latents to units of each channel's standard deviation; without it, channels of large values rule.
    Few frames make it too large, so only distances of equally many frames compare.
    """
    scale = np.ones(len(a.mean)) if std is None else np.maximum(std, SMALLEST_STD).astype(np.float64)
    for channels in (len(b.mean), len(scale)):
        _require_channels(channels, expected=len(a.mean))
    shift = (a.mean - b.mean) / scale
    first, second = (statistics.covariance() / np.outer(scale, scale) for statistics in (a, b))
    # The trace of the root of S_a S_b is the sum of the singular values of S_a^(1/2) S_b^(1/2): no complex numbers, and
    # no root of a rounding error, which would turn 1e-16 into 1e-8.
    overlap = np.linalg.svd(_root(first) @ _root(second), compute_uv=False).sum()
    return max(0.0, float(shift @ shift + np.trace(first) + np.trace(second) - 2 * overlap))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _require_channels(channels: int, *, expected: int) -> None:
    if channels != expected:
        raise EvaluationError(
            "latents, or their standard deviations, of different autoencoders",
            value=f"{channels} channels, not {expected}",
            remedy="take both from the same autoencoder",
        )
