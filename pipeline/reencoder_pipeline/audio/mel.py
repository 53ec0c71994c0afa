"""Makes mel filterbanks, and measures the spectral distance of the autoencoder's training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# (n_fft, hop, window): the metric's own three resolutions (auraloss defaults) and two that it does not look at.
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240), (1024, 256, 1024), (2048, 512, 2048))
LOG_FLOOR = 1e-4  # magnitude; the metric clamps power at 1e-8. A floor of 1e-3 trained a worse metric.


def mel_filterbanks(sample_rate: int, *, device: torch.device | str = "cpu") -> dict[int, Tensor]:
    """n_fft -> (mels, bins) slaney filterbank; few enough bands that none is empty, at 1024 those of mel-D."""
    sizes = ((512, 48), (1024, 128), (2048, 128))
    return {n_fft: mel_filters(n_fft, bands=mels, sample_rate=sample_rate).to(device) for n_fft, mels in sizes}


def mel_filters(n_fft: int, *, bands: int, sample_rate: int) -> Tensor:
    """(bands, n_fft // 2 + 1) Slaney mel filters of area 1. Where bands are narrower than bins, some are all zeros.

    They come from torchaudio; where it does not load they are computed here, equal to 1.2e-7 at the sizes of
    mel-D. (transformers has them too, but imports any torchaudio that is installed, and a broken one is the usual
    reason to be here.)
    """
    try:  # a torchaudio beside another torch fails in one of these three ways
        from torchaudio.functional import melscale_fbanks
    except (ImportError, OSError, RuntimeError):
        filters = torch.from_numpy(_slaney_filters(n_fft, bands=bands, sample_rate=sample_rate)).float()
    else:
        filters = melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, norm="slaney", mel_scale="slaney"
        )
    return filters.T.contiguous()  # (bins, bands) -> (bands, bins)


def _slaney_filters(n_fft: int, *, bands: int, sample_rate: int) -> np.ndarray:
    """(bins, bands): triangles of area 1 whose corners lie evenly on Slaney's scale, linear to 1 kHz (mel 15)."""
    highest = 15.0 + 27.0 * np.log(sample_rate / 2000.0) / np.log(6.4)
    mels = np.linspace(0.0, highest, bands + 2)
    corners = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))  # in Hz
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    rising, falling = (bins - corners[:-2]) / np.diff(corners)[:-1], (corners[2:] - bins) / np.diff(corners)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (corners[2:] - corners[:-2])


def spectral_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    # The root has no gradient at zero, where two spectra are equal.
    difference = (estimate - reference).square().sum(dim=(1, 2)).clamp(min=1e-20).sqrt()
    convergence = difference / reference.square().sum(dim=(1, 2)).sqrt()
    # A near-silent reference would make the ratio explode and drown the rest of the batch.
    log_l1 = (estimate.clamp(min=1e-7).log() - reference.clamp(min=1e-7).log()).abs().mean()
    return convergence.clamp(max=10.0).mean() + log_l1
