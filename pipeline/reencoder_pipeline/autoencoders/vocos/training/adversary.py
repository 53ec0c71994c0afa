"""Discriminators of waveforms and what they teach: complex spectra (EnCodec's MS-STFTD), periods (HiFi-GAN's MPD)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Judgement = tuple[Tensor, list[Tensor]]  # logits, and what every layer saw


class Adversary(nn.Module):
    """One discriminator per FFT size and per period; (B, 1, L) -> a judgement of each.

    Periods cost more than all of a small autoencoder: leave them to GPUs.
    """

    def __init__(self, *, fft_sizes: Sequence[int], periods: Sequence[int], filters: int) -> None:
        super().__init__()
        spectra = [SpectrumDiscriminator(n_fft, filters) for n_fft in fft_sizes]
        self.discriminators = nn.ModuleList([*spectra, *(PeriodDiscriminator(period, filters) for period in periods)])

    def forward(self, audio: Tensor) -> list[Judgement]:
        return [discriminator(audio) for discriminator in self.discriminators]


class SpectrumDiscriminator(nn.Module):
    """2-d convolutions over the complex STFT, its magnitude compressed to |S|^0.3 so that the highs are seen."""

    window: Tensor

    def __init__(self, n_fft: int, filters: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        layers = [nn.Conv2d(2, filters, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):  # in time; every layer halves the frequencies
            padding = (dilation, 4)
            layers.append(nn.Conv2d(filters, filters, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=padding))
        layers.append(nn.Conv2d(filters, filters, 3, padding=1))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.judge = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> Judgement:
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio[:, 0].float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True
            )
            # The floor is added, not clamped, and large enough that the gradient of the root stays small at silence.
            power = spectrum.real.square() + spectrum.imag.square() + 1e-6
            x = torch.view_as_real(spectrum * power.pow(-0.35)).permute(0, 3, 2, 1)  # (B, F, T, 2) -> (B, 2, T, F)
        maps = feature_maps(x, self.layers, slope=0.2)
        return self.judge(maps[-1]), maps


class PeriodDiscriminator(nn.Module):
    """2-d convolutions over the waveform folded at a period: (B, 1, L/period, period). `slope` is the leaky ReLUs'."""

    def __init__(self, period: int, filters: int, *, slope: float = 0.2) -> None:
        super().__init__()
        self.period, self.slope = period, slope
        widths = [1, filters, 4 * filters, 16 * filters, 32 * filters]
        layers = [nn.Conv2d(before, after, (5, 1), stride=(3, 1), padding=(2, 0)) for before, after in pairwise(widths)]
        layers.append(nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0)))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.judge = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> Judgement:
        padded = F.pad(audio, (0, -audio.shape[-1] % self.period), mode="reflect")
        maps = feature_maps(padded.unflatten(-1, (-1, self.period)), self.layers, slope=self.slope)
        return self.judge(maps[-1]), maps


def discriminator_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """Hinge (Lim and Ye 2017), the mean over discriminators."""
    losses = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for (r, _), (f, _) in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_losses(real: Sequence[Judgement], fake: Sequence[Judgement]) -> tuple[Tensor, Tensor]:
    """Hinge loss of the discriminators' scores, and the relative L1 between their features of estimate and original."""
    fooled = torch.stack([-logits.float().mean() for logits, _ in fake]).mean()
    distances = [
        (a - b.detach()).abs().mean() / b.detach().abs().mean().clamp(min=1e-5)
        for (_, fakes), (_, reals) in zip(fake, real, strict=True)
        for a, b in zip(fakes, reals, strict=True)
    ]
    return fooled, torch.stack(distances).mean()


def feature_maps(x: Tensor, layers: Iterable[nn.Module], *, slope: float) -> list[Tensor]:
    """The outputs of all layers applied in series, each followed by a leaky ReLU."""
    maps = []
    for layer in layers:
        x = F.leaky_relu(layer(x), slope)
        maps.append(x)
    return maps
