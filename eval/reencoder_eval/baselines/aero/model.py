"""Aero's generator: low-rate audio -> STFT -> U-Net over the complex spectrum -> inverse STFT at the high rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_eval.baselines.aero.layers import AeroDecoder, AeroEncoder, FrequencyEmbedding
from reencoder_pipeline.errors import ConfigError

KERNEL = 8
GROWTH = 2
FIRST_DEEP = 2  # from this layer on: group norms, recurrent layers, attention
EMBEDDING_WEIGHT = 0.2
INITIAL_STD = 0.1


@dataclass(frozen=True)
class AeroConfig:
    """Sizes of Aero. The defaults are those of the comparison: 22.05 -> 44.1 kHz, 19.43 M parameters, 85 GFLOPs.

    `n_fft` and `hop` are at the high rate. Each of `strides` (steps in frequency) makes one layer of the encoder and
    its mirror in the decoder, and doubles the channels. ConfigError for sizes that do not fit together.
    """

    channels: int = 48
    n_fft: int = 512
    hop: int = 128
    strides: tuple[int, ...] = (4, 4, 2, 2)
    low_rate: int = 22_050
    high_rate: int = 44_100

    def __post_init__(self) -> None:
        problems = {
            "channels is not a multiple of 4": self.channels % 4,
            "high_rate is not a multiple of low_rate": self.high_rate % self.low_rate,
            "hop is not a multiple of high_rate / low_rate": self.hop % self.factor if self.factor else 1,
            "the product of strides does not divide n_fft / 2": self.n_fft // 2 % math.prod(self.strides),
            "a stride is not even": any(stride % 2 for stride in self.strides),
        }
        if found := [problem for problem, is_there in problems.items() if is_there]:
            value = f"{'; '.join(found)}: {self}"
            raise ConfigError("the sizes of Aero do not fit together", value=value, remedy="change the sizes named")

    @property
    def factor(self) -> int:
        return self.high_rate // self.low_rate

    @property
    def low_hop(self) -> int:
        return self.hop // self.factor


class Aero(nn.Module):
    """(B, 1, n) at the low rate -> (B, 1, factor * n) at the high rate; the whole spectrum is predicted, also the low.

    In evaluation mode items of a batch are independent, a gain of the input is a gain of the output, and silence stays
    silence. An output depends on the whole input through its level, group norms over time, recurrence and attention.
    """

    low_window: Tensor
    high_window: Tensor

    def __init__(self, config: AeroConfig) -> None:
        super().__init__()
        self.config = config
        # The low rate has a shorter window but the same FFT size, so that it has as many bins and frames as the high
        # rate (the paper's "spectral upsampling"). Bin k is k * low_rate / n_fft Hz at the input and k * high_rate /
        # n_fft Hz at the output.
        self.register_buffer("low_window", torch.hann_window(config.n_fft // config.factor), persistent=False)
        self.register_buffer("high_window", torch.hann_window(config.n_fft), persistent=False)
        encoders, decoders = [], []
        in_channels, channels, freqs = 2, config.channels, config.n_fft // 2
        for index, stride in enumerate(config.strides):
            kernel, first, deep = min(KERNEL, freqs), index == 0, index >= FIRST_DEEP
            encoders.append(
                AeroEncoder(in_channels, channels, freqs=freqs, stride=stride, kernel=kernel, first=first, deep=deep)
            )
            decoders.append(AeroDecoder(channels, in_channels, stride=stride, kernel=kernel, last=first, deep=deep))
            in_channels, channels, freqs = channels, GROWTH * channels, freqs // stride
        self.encoder = nn.ModuleList(encoders)
        self.decoder = nn.ModuleList(reversed(decoders))
        self.freq_emb = FrequencyEmbedding(config.n_fft // 2 // config.strides[0], config.channels)
        self.apply(_rescale)

    def forward(self, audio: Tensor) -> Tensor:
        assert audio.dim() == 3 and audio.shape[1] == 1, f"Aero is mono: (B, 1, n), not {tuple(audio.shape)}"  # noqa: PT018
        x = self.analyse(audio)
        mean, std = x.mean(dim=(1, 2, 3), keepdim=True), x.std(dim=(1, 2, 3), keepdim=True)
        x, skips = (x - mean) / (std + 1e-5), []
        for index, layer in enumerate(self.encoder):
            x = layer(x)
            if index == 0:
                x = x + EMBEDDING_WEIGHT * self.freq_emb().T[:, :, None]  # (F, C) -> (C, F, 1)
            skips.append(x)
        x = torch.zeros_like(x)  # all information comes through the skips
        for layer in self.decoder:
            x = layer(x, skips.pop())
        return self.synthesise(x * std + mean)[..., : self.config.factor * audio.shape[-1]]

    def analyse(self, audio: Tensor) -> Tensor:
        """(B, 1, n) -> real and imaginary parts, (B, 2, F, T), without the Nyquist bin; T = ceil(n / low_hop) + 1.

        Audio is padded with zeros to whole hops, and to at least as many hops as the reflected edges need.
        """
        n_fft, hop = self.config.n_fft, self.config.low_hop
        num_hops = max(-(-audio.shape[-1] // hop), n_fft // 2 // hop + 1)
        with torch.autocast(audio.device.type, enabled=False):
            padded = F.pad(audio[:, 0].float(), (0, num_hops * hop - audio.shape[-1]))
            spectrum = torch.stft(
                padded, n_fft, hop, len(self.low_window), self.low_window, normalized=True, return_complex=True
            )
        return torch.view_as_real(spectrum[:, :-1]).permute(0, 3, 1, 2)  # (B, F, T, 2) -> (B, 2, F, T)

    def synthesise(self, x: Tensor) -> Tensor:
        """(B, 2, F, T) -> (B, 1, (T - 1) * hop)."""
        n_fft, hop = self.config.n_fft, self.config.hop
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(x.float(), (0, 0, 0, 1)).permute(0, 2, 3, 1)  # the Nyquist bin; (B, 2, F, T) -> (B, F, T, 2)
            spectrum = torch.view_as_complex(x.contiguous())
            return torch.istft(spectrum, n_fft, hop, n_fft, self.high_window, normalized=True)[:, None]


@torch.no_grad()
def _rescale(layer: nn.Module) -> None:
    """Move the standard deviation of 1-d convolutions halfway to 0.1, on a log scale (as Demucs does)."""
    if isinstance(layer, nn.Conv1d):
        divisor = (layer.weight.std() / INITIAL_STD).sqrt()
        for parameter in layer.parameters():
            parameter.div_(divisor)
