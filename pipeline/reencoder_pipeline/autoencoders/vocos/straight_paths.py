"""Copies past the network what it learns slowly: the low waveform (lapped transform) and the spectrum's envelope."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig

MEAN_LEVEL = -4.6  # nepers: the mean log magnitude of music above 1 kHz, FFT of 1,024 samples


class LappedAnalysis(nn.Module):
    """Fixed path for the waveform: (B, 1, T*hop) -> (B, C, T), the lowest `lapped` coefficients of an MDCT of one hop
    (Malvar's lapped transform: orthogonal, exact when neighbours are added); zero in the other channels.

    The loudest part of music lies below 1 kHz, and a network takes very long to learn to copy that waveform; 32
    coefficients alone reach 9 dB SI-SDR. It is fixed because a trained one made the highs worse for 800 steps
    (trainer/LOG.md); it seems to leak into them with every step of Adam.
    """

    weight: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.hop = config.hop
        basis = lapped_basis(config.hop, config.lapped) * lapped_scale(config.lapped)
        self.register_buffer("weight", basis[:, None], persistent=False)
        self.others = config.latent_channels - config.lapped

    def forward(self, audio: Tensor) -> Tensor:
        """Frame t depends on its own hop and half a hop on both sides."""
        with torch.autocast(audio.device.type, enabled=False):
            padded = F.pad(audio.float(), (self.hop // 2, self.hop // 2))
            return F.pad(F.conv1d(padded, self.weight, stride=self.hop), (0, 0, 0, self.others))


class LappedSynthesis(nn.Module):
    """The inverse of LappedAnalysis: (B, C, T) -> (B, 1, T*hop)."""

    weight: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.hop = config.hop
        basis = lapped_basis(config.hop, config.lapped) / lapped_scale(config.lapped)
        self.register_buffer("weight", basis[:, None], persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            series = latents[:, : len(self.weight)].float()
            audio = F.conv_transpose1d(series, self.weight, stride=self.hop)
        return audio[..., self.hop // 2 : -(self.hop // 2)]


def lapped_scale(count: int) -> Tensor:
    """Scales (count, 1) that bring the coefficients of music near unit variance; their level falls with frequency."""
    return 0.5 + torch.arange(count)[:, None] / 12


def lapped_basis(hop: int, count: int) -> Tensor:
    """(count, 2*hop): the lowest functions of the sine-windowed MDCT (Princen and Bradley 1987), orthonormal."""
    n = torch.arange(2 * hop, dtype=torch.float64)
    k = torch.arange(count, dtype=torch.float64)[:, None]
    waves = torch.cos(torch.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5))
    return ((2 / hop) ** 0.5 * waves * torch.sin(torch.pi * (n + 0.5) / (2 * hop))).float()


class EnvelopeAnalysis(nn.Module):
    """Trained path for the spectrum's shape: log magnitudes (B, F, T*stride) -> (B, C, T).

    It starts as a cepstrum: a cosine series, along frequency, of the log spectrum above the lapped coefficients,
    averaged over the frame. Without it an early network puts the high band into four to seven numbers a frame.
    """

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.stride, rows, basis, scale = config.stride, *_envelope_start(config)
        weight = torch.zeros(config.latent_channels, config.n_fft // 2 + 1, config.stride)
        weight[rows, config.lapped_bins :] = (basis * scale)[..., None]
        bias = torch.zeros(config.latent_channels)
        bias[rows] = -scale[:, 0] * _mean_series(config.envelope)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        # Keeps weights at unit size: a step of Adam, in the same direction on 2,000 inputs, must stay small.
        self.gain = 1 / (basis.shape[1] * config.stride)

    def forward(self, levels: Tensor) -> Tensor:
        with torch.autocast(levels.device.type, enabled=False):
            series = F.conv1d(levels - MEAN_LEVEL, self.weight, stride=self.stride) * self.gain
            return series + self.bias[:, None]


class EnvelopeSynthesis(nn.Module):
    """(B, C, T) -> log magnitudes to add, (B, F, T*stride); starts as the inverse of EnvelopeAnalysis."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.stride, rows, basis, scale = config.stride, *_envelope_start(config)
        basis = basis * torch.tensor([1.0] + [2.0] * (config.envelope - 1))[:, None]  # of the inverse cosine transform
        weight = torch.zeros(config.latent_channels, config.n_fft // 2 + 1, config.stride)
        weight[rows, config.lapped_bins :] = (basis / scale)[..., None]
        # In the lapped bins, whose sound the lapped path carries already, the network starts nearly silent.
        bias = torch.full((config.n_fft // 2 + 1,), -4.0)
        bias[config.lapped_bins :] = MEAN_LEVEL + _mean_series(config.envelope) @ basis
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            return F.conv_transpose1d(latents.float(), self.weight, self.bias, stride=self.stride)


def _envelope_start(config: VocosConfig) -> tuple[slice, Tensor, Tensor]:
    """The envelope's channels, its cosines (envelope, bins above the lapped ones; DCT-II), and a scale (envelope, 1)
    that brings the series of music near unit variance."""
    bins = config.n_fft // 2 + 1 - config.lapped_bins
    order = torch.arange(config.envelope)[:, None]
    cosines = torch.cos(torch.pi / bins * order * (torch.arange(bins) + 0.5))
    return (
        slice(config.lapped, config.lapped + config.envelope),
        cosines,
        torch.where(order == 0, 0.75, 2 + 0.8 * order),
    )


def _mean_series(count: int) -> Tensor:
    """(count,): the mean of the series over music, a slope on top of MEAN_LEVEL; latents of this series are zero."""
    return torch.cat([torch.tensor([0.0, 1.8]), torch.zeros(count)])[:count]
