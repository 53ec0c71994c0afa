"""The losses of the Descript Audio Codec without its codebook: least-squares GAN, feature matching, mel distances."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from reencoder_eval.baselines.adversarial import FeatureMaps, feature_distance
from reencoder_eval.baselines.musichifi.mel import spectrum
from reencoder_eval.baselines.musichifi.model import SAMPLE_RATE
from reencoder_pipeline.audio.mel import mel_filters

SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # window, mel bands
FLOOR = 1e-5
RECONSTRUCTION = 360.0  # MusicHiFi's; the codec's is 15


def generator_loss(
    estimate: Tensor, target: Tensor, of_estimate: FeatureMaps, of_target: FeatureMaps
) -> dict[str, Tensor]:
    """Audio (B, 1, L) and feature maps of both -> three weighted terms, each a sum over its parts.

    Without feature maps (before the discriminator takes part) there is only the mel term.
    """
    terms = {"mel": RECONSTRUCTION * mel_spectrum_l1(estimate, target)}
    if of_estimate:
        terms["adversarial"] = torch.stack([(1 - maps[-1].float()).square().mean() for maps in of_estimate]).sum()
        terms["matching"] = feature_distance(of_estimate, of_target)
    return terms


def squared_loss_of_discriminator(of_estimate: FeatureMaps, of_target: FeatureMaps) -> Tensor:
    """Least squares (Mao et al. 2017): scores of targets tend to 1 and of estimates to 0; the sum over parts."""
    losses = [
        fake[-1].float().square().mean() + (1 - real[-1].float()).square().mean()
        for fake, real in zip(of_estimate, of_target, strict=True)
    ]
    return torch.stack(losses).sum()


def mel_spectrum_l1(estimate: Tensor, target: Tensor) -> Tensor:
    """Both (B, 1, L), L > 768 -> L1 distance of log10 mel magnitudes, summed over seven resolutions."""
    with torch.autocast(estimate.device.type, enabled=False):
        distances = []
        for size, bands in SCALES:
            window, filters = _scale(size, bands, estimate.device)
            first, second = (
                (filters @ spectrum(audio, window=window, hop=size // 4).abs()).clamp(min=FLOOR).log10()
                for audio in (estimate, target)
            )
            distances.append((first - second).abs().mean())
        return torch.stack(distances).sum()


@cache
def _scale(size: int, bands: int, device: torch.device) -> tuple[Tensor, Tensor]:
    filters = mel_filters(size, bands=bands, sample_rate=SAMPLE_RATE)
    return torch.hann_window(size, device=device), filters.to(device)
