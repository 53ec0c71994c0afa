"""Latents of clips, and the Fréchet distance between two sets of clips in the autoencoder's latent space.

A latent module was trained on these latents, and the distance needs no other network. It does not replace distances of
sound: values of different autoencoders do not compare, and latents lack what the autoencoder cannot hear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from reencoder_eval.metrics.latent_statistics import SMALLEST_STD
from reencoder_pipeline.errors import EvaluationError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


@torch.inference_mode()
def encode_clip(audio: np.ndarray, *, autoencoder: Autoencoder, device: torch.device | str = "cpu") -> np.ndarray:
    """(channels, samples) -> latents (channels, C, T), or (1, C, T) if the autoencoder encodes stereo jointly."""
    batch = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(device)
    joint = autoencoder.spec.stereo == "joint"
    return autoencoder.encode(batch[None] if joint else batch[:, None]).cpu().numpy()


@dataclass(frozen=True)
class FrechetStatistics:
    """Count, mean and scatter (the sum of outer products of deviations) of latent frames, in float64.

    Statistics of single clips can be added in any order; the sum equals `of` all clips, up to rounding.

    Example::

        a = FrechetStatistics.of(first) + FrechetStatistics.of(second)  # latents (..., C, T)
        frechet_distance(a, FrechetStatistics.of(reference))
    """

    count: int
    mean: np.ndarray  # (C,)
    scatter: np.ndarray  # (C, C)

    @classmethod
    def of(cls, latents: np.ndarray) -> FrechetStatistics:
        """Statistics over all frames of latents (..., C, T). EvaluationError without frames or if not finite."""
        frames = np.moveaxis(latents, -2, 0).reshape(latents.shape[-2], -1).astype(np.float64)  # (..., C, T) -> (C, n)
        if not frames.size or not np.isfinite(frames).all():
            raise EvaluationError(
                "the latents are empty or not finite",
                value=f"latents {latents.shape}",
                remedy="check the audio they were encoded from",
            )
        mean = frames.mean(axis=1)
        deviations = frames - mean[:, None]
        return cls(frames.shape[1], mean, deviations @ deviations.T)

    def __add__(self, other: FrechetStatistics) -> FrechetStatistics:
        """The statistics of all frames of both (Chan, Golub and LeVeque 1979)."""
        count, shift = self.count + other.count, other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return FrechetStatistics(count, mean, self.scatter + other.scatter + between)

    def covariance(self) -> np.ndarray:
        """(C, C). EvaluationError with fewer than C + 1 frames, whose covariance would be singular."""
        if self.count < (needed := len(self.mean) + 1):
            raise EvaluationError(
                "there are too few latent frames for a covariance",
                where="Fréchet distance",
                value=f"{self.count} frames of {len(self.mean)} channels",
                remedy=f"use more or longer clips: at least {needed} frames, and better ten times as many",
            )
        return self.scatter / (self.count - 1)


def frechet_distance(a: FrechetStatistics, b: FrechetStatistics, *, std: np.ndarray | None = None) -> float:
    """Squared Wasserstein-2 distance of two Gaussians: |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); symmetric.

    `std` (C,) expresses latents in each channel's standard deviation; without it channels with large values dominate.
    Few frames make the distance too large, so compare only distances over equally many frames.
    """
    scale = np.ones(len(a.mean)) if std is None else np.maximum(std, SMALLEST_STD).astype(np.float64)
    for channels in (len(b.mean), len(scale)):
        if channels != len(a.mean):
            raise EvaluationError(
                "the latents and standard deviations belong to different autoencoders",
                value=f"{channels} channels, not {len(a.mean)}",
                remedy="take both from the same autoencoder",
            )
    shift = (a.mean - b.mean) / scale
    first, second = (statistics.covariance() / np.outer(scale, scale) for statistics in (a, b))
    # The trace of the root of S_a S_b is the sum of the singular values of S_a^(1/2) S_b^(1/2): no complex numbers, and
    # no root of a rounding error, which would turn 1e-16 into 1e-8.
    overlap = np.linalg.svd(_root(first) @ _root(second), compute_uv=False).sum()
    return max(0.0, float(shift @ shift + np.trace(first) + np.trace(second) - 2 * overlap))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
