"""The generator, BigVGAN (Lee et al. 2023): turns log-mel frames into a waveform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The filter around an activation, as published: 12 taps at the doubled rate, -6 dB at the old Nyquist frequency.
TAPS = 12
KAISER_BETA = 4.664
REACH = TAPS // 2 - 1  # samples that an activation sees to each side, through up- and downsampling together
EDGES = 7  # taps of the first and the last convolution


@dataclass(frozen=True)
class GeneratorSizes:
    """Sizes of the generator; the defaults are the published ones.

    `channels` is the width after the first convolution. Each of `rates` makes a stage, which upsamples by the rate and
    halves the channels. A stage has one AMP block per entry of `block_kernels`; a block has one residual convolution
    per entry of `dilations`.
    """

    channels: int = 1536
    mel_bands: int = 128
    rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3)

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.rates)

    @property
    def context(self) -> int:
        """Frames on each side of its own that a sample depends on: 15 for the published sizes."""
        block = max((kernel - 1) // 2 for kernel in self.block_kernels) * sum(self.dilations)
        first, last = 0, self.hop - 1  # the samples of frame 0, traced back to the frames they depend on
        first, last = first - EDGES // 2 - REACH, last + EDGES // 2 + REACH
        for rate in reversed(self.rates):
            reach = block + len(self.dilations) * REACH
            # kernel 2 rate, padding rate / 2: output o depends on inputs from (o + padding - kernel + 1) / rate upwards
            first, last = first - reach + rate // 2 - 2 * rate + 1, last + reach + rate // 2
            first, last = -(-first // rate), last // rate
        return max(-first, last) + EDGES // 2


class Generator(nn.Module):
    """Log-mel (B, mel_bands, T) -> waveform (B, 1, T * hop), unbounded: no tanh and no bias at the end."""

    def __init__(self, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.sizes = sizes
        widths = [sizes.channels // 2**stage for stage in range(len(sizes.rates) + 1)]
        self.first = nn.Conv1d(sizes.mel_bands, widths[0], EDGES, padding=EDGES // 2)
        self.stages = nn.ModuleList(
            UpsamplingStage(before, after, rate=rate, kernels=sizes.block_kernels, dilations=sizes.dilations)
            for (before, after), rate in zip(pairwise(widths), sizes.rates, strict=True)
        )
        self.activation = SmoothActivation(widths[-1])
        self.last = nn.Conv1d(widths[-1], 1, EDGES, padding=EDGES // 2, bias=False)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(mel)
        for stage in self.stages:
            x = stage(x)
        return self.last(self.activation(x))


class UpsamplingStage(nn.Module):
    """(B, before, T) -> (B, after, T * rate): upsampling, then the mean of AMP blocks of different kernels."""

    def __init__(
        self, before: int, after: int, *, rate: int, kernels: tuple[int, ...], dilations: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose1d(before, after, 2 * rate, rate, padding=rate // 2)
        self.blocks = nn.ModuleList(ResidualBlock(after, kernel, dilations=dilations) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.upsample(x)
        return reduce(torch.add, (block(x) for block in self.blocks)) / len(self.blocks)


class ResidualBlock(nn.Module):
    """AMP block of the second kind, (B, C, T) -> the same shape: one activation and one convolution per dilation."""

    def __init__(self, channels: int, kernel: int, *, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.activations = nn.ModuleList(SmoothActivation(channels) for _ in dilations)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) // 2 * dilation)
            for dilation in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for activation, convolution in zip(self.activations, self.convolutions, strict=True):
            x = x + convolution(activation(x))
        return x


class SmoothActivation(nn.Module):
    """SnakeBeta, x + sin^2(a x) / b, applied at the doubled rate so that its harmonics do not alias; (B, C, T)."""

    taps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_frequency = nn.Parameter(torch.zeros(channels, 1))
        self.log_magnitude = nn.Parameter(torch.zeros(channels, 1))
        self.register_buffer("taps", kaiser_low_pass(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        taps = self.taps.expand(channels, 1, TAPS)
        padded = F.pad(x, (REACH, REACH), mode="replicate")
        # The padding cuts off the outputs of the repeated samples (two each) and the 5 taps before the first.
        x = 2 * F.conv_transpose1d(padded, taps, stride=2, padding=3 * REACH, groups=channels)
        x = x + (self.log_frequency.exp() * x).sin().square() / (self.log_magnitude.exp() + 1e-9)
        return F.conv1d(F.pad(x, (REACH, REACH + 1), mode="replicate"), taps, stride=2, groups=channels)


def kaiser_low_pass() -> Tensor:
    """(TAPS,) of a Kaiser-windowed sinc with its cutoff at half of Nyquist and unit gain for constants."""
    times = torch.arange(TAPS) - (TAPS - 1) / 2
    taps = torch.kaiser_window(TAPS, periodic=False, beta=KAISER_BETA) * torch.sinc(times / 2)
    return taps / taps.sum()
