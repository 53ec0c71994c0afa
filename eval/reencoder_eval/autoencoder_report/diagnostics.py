"""Measures on a few clips how an autoencoder's latents are to work on; the same seed gives the same numbers.

Every L1 of latents is in units of each channel's standard deviation over the clips: what a training on normalised
latents would count. Predicting every channel's mean costs about 0.8 of it (0.80 if Gaussian).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reencoder_eval.autoencoder_report.perturbations import LATENT_NOISE, LATENT_NOISE_RANGE, perturbations, strengths
from reencoder_eval.clips.excerpts import Excerpt
from reencoder_eval.metrics.latent_statistics import (
    UNUSED_SIGMA,
    affine_fit,
    channel_l1,
    channel_statistics,
    channels_that_carry,
    latent_l1,
    relative_error,
)
from reencoder_eval.metrics.spectral import SHORTEST, stft_distance
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.progress import Progress, unseen

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


DIAGNOSTICS_VERSION = 1  # raise it when any number below changes: stored diagnostics are then measured again
GAIN = 0.5
SHIFTS = (1, 16, 256, 512)  # samples
NOISE_SIZES = (0.0, 0.05, 0.1, 0.2, 0.5)  # in units of each channel's standard deviation


class Coder:
    """The autoencoder for single signals, numpy to numpy: (samples,) <-> (C, T). Two decoded channels are averaged."""

    def __init__(self, autoencoder: Autoencoder, *, device: str) -> None:
        self.autoencoder, self.device = autoencoder, device

    @torch.inference_mode()
    def encode(self, audio: np.ndarray) -> np.ndarray:
        return self.autoencoder.encode(self._batch(audio))[0].float().cpu().numpy()

    @torch.inference_mode()
    def decode(self, latents: np.ndarray, *, length: int) -> np.ndarray:
        batch = torch.from_numpy(latents.astype(np.float32)).to(self.device)[None]
        return self.autoencoder.decode(batch)[0].float().mean(dim=0)[:length].cpu().numpy()  # (1 or 2, L) -> (L,)

    @torch.inference_mode()
    def posterior(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and log of the standard deviation, (C, T) each; None if the autoencoder does not offer them."""
        method = getattr(self.autoencoder, "posterior", None)
        if method is None:
            return None
        mean, log_std = method(self._batch(audio))
        return mean[0].float().cpu().numpy(), log_std[0].float().cpu().numpy()

    def _batch(self, audio: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.device)[None, None]


def diagnose(
    autoencoder: Autoencoder, excerpts: Sequence[Excerpt], *, seed: int, device: str, progress: Progress = unseen
) -> dict[str, Any]:
    """All diagnostics, as autoencoder.json holds them. `shift_l1` and `noise_stft_d` are pairs of a size and a mean
    over the clips. `progress` counts the excerpts of the part that takes most of the time."""
    if not excerpts:
        raise EvaluationError("no excerpt can be diagnosed", remedy="use other clips, or diagnostic_clips=0")
    coder = Coder(autoencoder, device=device)
    latents = np.stack([coder.encode(excerpt.mono) for excerpt in excerpts])  # (N, C, T)
    channels = channel_statistics(latents)
    std = np.array(channels.std)
    noise, points = [], []
    for number, excerpt in enumerate(excerpts):
        random = np.random.default_rng([seed, number])
        noise.append(noise_curve(coder, excerpt, latents[number], std, random))
        points.append(perturbed(coder, excerpt, latents[number], std, random))
        progress(number + 1, len(excerpts))
    return {
        "version": DIAGNOSTICS_VERSION,
        "seed": seed,
        "clips": [excerpt.id for excerpt in excerpts],
        "samples": len(excerpts[0].mono),  # per clip
        "channels": asdict(channels),
        "posterior": posterior(coder, excerpts),
        "gain": gain_error(coder, excerpts, latents),
        "mixing": mixing_error(coder, excerpts, latents),
        "high_band": high_band(coder, excerpts, latents, std),
        "shift_l1": shift_sensitivity(coder, excerpts, std),
        "noise_stft_d": list(zip(NOISE_SIZES, np.mean(noise, axis=0).tolist(), strict=True)),
        "proximity": proximity(points),
    }


def posterior(coder: Coder, excerpts: Sequence[Excerpt]) -> dict[str, Any] | None:
    """Of autoencoders that have one: N(mean, sigma^2) per latent, trained against N(0, 1).

    `sigma` is the mean over frames, per channel; `unused` counts channels with a sigma of UNUSED_SIGMA or more;
    `nats_per_frame` is the KL divergence from N(0, 1), summed over channels.
    """
    pairs = [coder.posterior(excerpt.mono) for excerpt in excerpts]
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return None
    mean, log_std = (np.concatenate(arrays, axis=-1).astype(np.float64) for arrays in zip(*known, strict=True))
    sigma = np.exp(log_std).mean(axis=-1)
    nats = 0.5 * (np.square(mean) + np.exp(2 * log_std) - 1) - log_std
    unused, nats_per_frame = int((sigma >= UNUSED_SIGMA).sum()), float(nats.sum(axis=0).mean())
    return {"sigma": sigma.tolist(), "unused": unused, "nats_per_frame": nats_per_frame}


def gain_error(coder: Coder, excerpts: Sequence[Excerpt], latents: np.ndarray) -> dict[str, float | None]:
    """E(g x) beside g E(x): norm of the difference over the norm of E(g x); then after the best affine map of E(x)."""
    quiet = np.stack([coder.encode(GAIN * excerpt.mono) for excerpt in excerpts])
    error, affine_error = relative_error(GAIN * latents, quiet), relative_error(affine_fit(latents, quiet), quiet)
    return {"gain": GAIN, "error": error, "affine_error": affine_error}


def mixing_error(coder: Coder, excerpts: Sequence[Excerpt], latents: np.ndarray) -> dict[str, float | None] | None:
    """(E(left) + E(right)) / 2 beside E((left + right) / 2), means removed; then both decoded, STFT-D to the mix.

    `one_side` is the same error for E(left) alone: near-mono music makes any autoencoder look linear, and shows here.
    None where no excerpt is stereo.
    """
    sides = [(number, excerpt.stereo) for number, excerpt in enumerate(excerpts) if excerpt.stereo is not None]
    if not sides:
        return None
    left, right = (np.stack([coder.encode(stereo[side]) for _, stereo in sides]) for side in (0, 1))
    mixed = (left + right) / 2
    mono = latents[[number for number, _ in sides]]
    mean = mono.mean(axis=(0, 2), keepdims=True)
    distances = [
        [_decoded_distance(coder, z, excerpts[number].mono) for z in pair]
        for (number, _), *pair in zip(sides, mixed, mono, strict=True)
    ]
    stft_d_mixed, stft_d_mono = np.mean(distances, axis=0).tolist()
    error, one_side = (relative_error(latents - mean, mono - mean) for latents in (mixed, left))
    errors = {"error": error, "one_side": one_side}
    return {"clips": len(sides), **errors, "stft_d_mixed": stft_d_mixed, "stft_d_mono": stft_d_mono}


def high_band(coder: Coder, excerpts: Sequence[Excerpt], latents: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    """E(x) beside E(low band of x): L1 per channel, the channels by falling L1, how many make up 80 % of the sum."""
    l1 = channel_l1(np.stack([coder.encode(excerpt.low_band) for excerpt in excerpts]), latents, std)
    order = np.argsort(-l1, kind="stable")
    return {"l1": l1.tolist(), "order": order.tolist(), "carrying": channels_that_carry(l1.tolist())}


def shift_sensitivity(coder: Coder, excerpts: Sequence[Excerpt], std: np.ndarray) -> list[tuple[int, float]]:
    """The same music, heard from a few samples later on: real samples on both sides, nothing is padded in."""
    hop = coder.autoencoder.spec.hop
    length = len(excerpts[0].mono) - -(-max(SHIFTS) // hop) * hop
    plain = np.stack([coder.encode(excerpt.mono[:length]) for excerpt in excerpts])
    pairs = []
    for shift in SHIFTS:
        shifted = np.stack([coder.encode(excerpt.mono[shift : shift + length]) for excerpt in excerpts])
        pairs.append((shift, latent_l1(shifted, plain, std)))
    return pairs


def noise_curve(
    coder: Coder, excerpt: Excerpt, latents: np.ndarray, std: np.ndarray, random: np.random.Generator
) -> list[float]:
    """STFT-D to the original of decode(z + size * std * noise) for NOISE_SIZES; the same noise for every size."""
    noise = std[:, None] * random.standard_normal(latents.shape)
    return [_decoded_distance(coder, latents + size * noise, excerpt.mono) for size in NOISE_SIZES]


def perturbed(
    coder: Coder, excerpt: Excerpt, latents: np.ndarray, std: np.ndarray, random: np.random.Generator
) -> list[tuple[str, float, float]]:
    """(kind, latent L1, STFT-D) of every perturbation. Latent noise is compared with the undisturbed decoding."""
    points = []
    for kind, apply in perturbations(coder.autoencoder.spec.sample_rate, random):
        changed = apply(excerpt.mono)
        distance = stft_distance(changed, excerpt.mono)
        points.append((kind, latent_l1(coder.encode(changed), latents, std), distance))
    decoded = coder.decode(latents, length=len(excerpt.mono))
    for size in strengths(*LATENT_NOISE_RANGE, random):
        noisy = latents + size * std[:, None] * random.standard_normal(latents.shape)
        points.append((LATENT_NOISE, latent_l1(noisy, latents, std), _decoded_distance(coder, noisy, decoded)))
    return points


def proximity(points: Sequence[Sequence[tuple[str, float, float]]]) -> dict[str, Any]:
    """Spearman correlation of latent L1 and STFT-D over the perturbations of a clip: mean and extremes over clips; and
    the mean distances of each kind. `points` are those of `perturbed`, clip by clip."""
    by_clip = [spearman([l1 for _, l1, _ in clip], [distance for *_, distance in clip]) for clip in points]
    known = [value for value in by_clip if value is not None]
    kinds = []
    for kind in dict.fromkeys(kind for clip in points for kind, *_ in clip):
        l1, distance = np.mean([point[1:] for clip in points for point in clip if point[0] == kind], axis=0).tolist()
        kinds.append({"kind": kind, "latent_l1": l1, "stft_d": distance})
    return {
        "spearman": float(np.mean(known)) if known else None,
        "lowest": min(known, default=None),
        "highest": max(known, default=None),
        "perturbations": len(points[0]),  # per clip
        "kinds": kinds,
    }


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlation of the ranks; None where either is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (first, second)]
    norms = [float(np.linalg.norm(values)) for values in ranks]
    return float(ranks[0] @ ranks[1]) / (norms[0] * norms[1]) if all(norms) else None


def _decoded_distance(coder: Coder, latents: np.ndarray, reference: np.ndarray) -> float:
    assert len(reference) >= SHORTEST
    return stft_distance(coder.decode(latents, length=len(reference)), reference)
