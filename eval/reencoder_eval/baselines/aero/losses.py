"""Aero's losses: multi-resolution STFT loss, hinge adversarial loss, feature matching."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reencoder_eval.baselines.adversarial import FeatureMaps

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # (n_fft, hop, window)
POWER_FLOOR = 1e-7
FEATURES_WEIGHT = 100.0


def aero_losses(
    estimate: Tensor, target: Tensor, of_estimate: FeatureMaps, of_target: FeatureMaps
) -> dict[str, Tensor]:
    """Weighted terms whose sum is the generator's loss. Audio is (B, 1, n). Without feature maps only "stft"."""
    reconstruction = {"stft": stft_loss(estimate, target)}
    if not of_estimate:
        return reconstruction
    return {
        **reconstruction,
        "adversarial": torch.stack([F.relu(1 - maps[-1].float()).mean() for maps in of_estimate]).sum(),
        "features": FEATURES_WEIGHT * feature_loss(of_estimate, of_target),
    }


def hinge_loss_of_discriminator(of_estimate: FeatureMaps, of_target: FeatureMaps) -> Tensor:
    """Hinge loss, summed over the sub-discriminators."""
    losses = [F.relu(1 + maps[-1].float()).mean() for maps in of_estimate]
    losses += [F.relu(1 - maps[-1].float()).mean() for maps in of_target]
    return torch.stack(losses).sum()


def feature_loss(of_estimate: FeatureMaps, of_target: FeatureMaps) -> Tensor:
    """Sum of the mean distances of feature maps except scores, times 4 / (strided layers + 1) / sub-discriminators."""
    strided_layers = len(of_target[0]) - 3
    distances = [
        F.l1_loss(ours.float(), theirs.detach().float())
        for estimated, true in zip(of_estimate, of_target, strict=True)
        for ours, theirs in zip(estimated[:-1], true[:-1], strict=True)
    ]
    return torch.stack(distances).sum() * 4 / (strided_layers + 1) / len(of_target)


def stft_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Both (B, 1, n), n > 1024 -> half spectral convergence (over the batch) + half L1 of log magnitudes, the mean over
    resolutions."""
    losses = []
    for resolution in RESOLUTIONS:
        magnitude, true_magnitude = (_magnitude(audio, *resolution) for audio in (estimate, target))
        convergence = (true_magnitude - magnitude).norm() / true_magnitude.norm()
        losses.append(0.5 * convergence + 0.5 * F.l1_loss(magnitude.log(), true_magnitude.log()))
    return torch.stack(losses).mean()


def _magnitude(audio: Tensor, n_fft: int, hop: int, window_length: int) -> Tensor:
    """(B, 1, n) -> (B, F, T)."""
    with torch.autocast(audio.device.type, enabled=False):
        window = torch.hann_window(window_length, device=audio.device)
        spectrum = torch.stft(audio[:, 0].float(), n_fft, hop, window_length, window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=POWER_FLOOR).sqrt()
