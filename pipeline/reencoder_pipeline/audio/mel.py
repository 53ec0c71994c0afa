"""Mel filterbanks and the spectral distance of the autoencoder's training."""

from __future__ import annotations

import torch
from torch import Tensor

# (n_fft, hop, window): the metric's own three resolutions (auraloss defaults) and two that it does not look at.
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240), (1024, 256, 1024), (2048, 512, 2048))
LOG_FLOOR = 1e-4  # magnitude; the metric clamps power at 1e-8. A floor of 1e-3 trained a worse metric.


def mel_filterbanks(sample_rate: int, *, device: torch.device | str = "cpu") -> dict[int, Tensor]:
    """n_fft -> (mels, bins) slaney filterbank; few enough bands that none is empty, at 1024 those of mel-D."""
    from reencoder_pipeline.audio.torchaudio_guard import import_torchaudio

    functional = import_torchaudio().functional
    banks = {}
    for n_fft, mels in ((512, 48), (1024, 128), (2048, 128)):
        bank = functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
        banks[n_fft] = bank.T.contiguous().to(device)
    return banks


def spectral_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    # The root has no gradient at zero, where two spectra are equal.
    difference = (estimate - reference).square().sum(dim=(1, 2)).clamp(min=1e-20).sqrt()
    convergence = difference / reference.square().sum(dim=(1, 2)).sqrt()
    # A near-silent reference would make the ratio explode and drown the rest of the batch.
    log_l1 = (estimate.clamp(min=1e-7).log() - reference.clamp(min=1e-7).log()).abs().mean()
    return convergence.clamp(max=10.0).mean() + log_l1
