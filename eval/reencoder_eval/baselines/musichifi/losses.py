"""The losses of the Descript Audio Codec without its codebook: least-squares GAN, feature matching, mel distances."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from reencoder_eval.baselines.adversarial import FeatureMaps
from reencoder_eval.baselines.musichifi.mel import spectrum
from reencoder_pipeline.audio.mel import mel_filters

SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # window, mel bands
FLOOR = 1e-5
MATCHING = 1.0
RECONSTRUCTION = 360.0  # MusicHiFi's; the codec's is 15


def generator_loss(
    estimate: Tensor,
    target: Tensor,
    of_estimate: FeatureMaps,
    of_target: FeatureMaps,
    *,
    sample_rate: int,
    matching: float = MATCHING,
    reconstruction: float = RECONSTRUCTION,
) -> dict[str, Tensor]:
    """Audio (B, 1, L) and feature maps of both -> three weighted terms, each a sum over its parts.

    Without feature maps (before the discriminator takes part) there is only the mel term.
    """
    terms = {"mel": reconstruction * mel_spectrum_l1(estimate, target, sample_rate=sample_rate)}
    if of_estimate:
        terms["adversarial"] = sum_of([(1 - maps[-1].float()).square().mean() for maps in of_estimate])
        terms["matching"] = matching * feature_distance(of_estimate, of_target)
    return terms


def squared_loss_of_discriminator(of_estimate: FeatureMaps, of_target: FeatureMaps) -> Tensor:
    """Least squares (Mao et al. 2017): scores of targets tend to 1 and of estimates to 0; the sum over parts."""
    return sum_of(
        [
            fake[-1].float().square().mean() + (1 - real[-1].float()).square().mean()
            for fake, real in zip(of_estimate, of_target, strict=True)
        ]
    )


def feature_distance(of_estimate: FeatureMaps, of_target: FeatureMaps) -> Tensor:
    """Sum of the L1 distances of all feature maps except the scores."""
    return sum_of(
        [
            (fake.float() - real.detach().float()).abs().mean()
            for fakes, reals in zip(of_estimate, of_target, strict=True)
            for fake, real in zip(fakes[:-1], reals[:-1], strict=True)
        ]
    )


def mel_spectrum_l1(estimate: Tensor, target: Tensor, *, sample_rate: int) -> Tensor:
    """Both (B, 1, L), L > 768 -> L1 distance of log10 mel magnitudes, summed over seven resolutions."""
    with torch.autocast(estimate.device.type, enabled=False):
        distances = []
        for size, bands in SCALES:
            window, filters = _scale(size, bands, sample_rate, estimate.device)
            first, second = (
                (filters @ spectrum(audio, window=window, hop=size // 4).abs()).clamp(min=FLOOR).log10()
                for audio in (estimate, target)
            )
            distances.append((first - second).abs().mean())
        return sum_of(distances)


def sum_of(terms: list[Tensor]) -> Tensor:
    """The sum of scalar tensors."""
    return torch.stack(terms).sum()


@cache
def _scale(size: int, bands: int, sample_rate: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.hann_window(size, device=device),
        mel_filters(size, bands=bands, sample_rate=sample_rate).to(device),
    )
