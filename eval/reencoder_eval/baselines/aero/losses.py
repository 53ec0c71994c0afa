"""Aero's losses: multi-resolution STFT loss, hinge adversarial loss, feature matching."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from reencoder_eval.baselines.adversarial import FeatureMaps, feature_distance
from reencoder_eval.metrics.spectral import MagnitudeSTFTLoss

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
    return feature_distance(of_estimate, of_target) * 4 / (strided_layers + 1) / len(of_target)


def stft_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Both (B, 1, n), n > 1024 -> half spectral convergence (over the batch) + half L1 of log magnitudes, the mean over
    resolutions."""
    with torch.autocast(estimate.device.type, enabled=False):
        return torch.stack([_stft_loss(*size)(estimate.float(), target.float()) for size in RESOLUTIONS]).mean()


@cache
def _stft_loss(n_fft: int, hop: int, window: int) -> MagnitudeSTFTLoss:
    return MagnitudeSTFTLoss(n_fft, hop, window, w_sc=0.5, w_log_mag=0.5, eps=POWER_FLOOR)
