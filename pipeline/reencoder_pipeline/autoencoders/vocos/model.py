"""Vocos autoencoder: STFT -> blocks at 172 Hz -> stride 4 -> blocks at 43 Hz -> mean and log-variance, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class VocosConfig:
    """Shape of the family. The encoder reads `fine` then `coarse` blocks, the decoder mirrors it.

    fine/coarse are (channels, hidden channels, blocks), at sample_rate/stft_hop and sample_rate/(stft_hop*stride) Hz.
    """

    sample_rate: int = 44_100
    n_fft: int = 1024
    stft_hop: int = 256
    stride: int = 4
    latent_channels: int = 64
    fine: tuple[int, int, int] = (256, 768, 4)
    coarse: tuple[int, int, int] = (384, 1152, 4)
    embed_kernel: int = 1

    @property
    def hop(self) -> int:
        return self.stft_hop * self.stride


class Vocos(nn.Module):
    """encoder: (B, 1, L) -> mean and log-variance, (B, C, L/hop) each, L a multiple of hop.
    decoder: (B, C, T) -> (B, 1, T*hop)."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.apply(_initialise)

    def forward(self, audio: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Training pass: (B, 1, L) -> reconstruction of a posterior sample, mean, log-variance."""
        mean, log_variance = self.encoder(audio)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return self.decoder(mean + torch.exp(0.5 * log_variance) * noise), mean, log_variance


class Encoder(nn.Module):
    window: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.fine = Stage(3 * bins, *config.fine, kernel=config.embed_kernel)
        self.down = nn.Conv1d(config.fine[0], config.coarse[0], config.stride, stride=config.stride)
        self.coarse = Stage(config.coarse[0], *config.coarse, kernel=1)
        self.posterior = nn.Conv1d(config.coarse[0], 2 * config.latent_channels, 1)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(audio.device.type, enabled=False):
            features = spectrum_features(_stft(audio[:, 0].float(), self.window, self.config))
        hidden = self.coarse(self.down(self.fine(features)))
        mean, log_variance = self.posterior(hidden).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 4.0)


class Decoder(nn.Module):
    window: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.coarse = Stage(config.latent_channels, *config.coarse, kernel=1)
        self.up = nn.ConvTranspose1d(config.coarse[0], config.fine[0], config.stride, stride=config.stride)
        self.fine = Stage(config.fine[0], *config.fine, kernel=1)
        self.head = nn.Conv1d(config.fine[0], 3 * bins, 1)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.head(self.fine(self.up(self.coarse(latents))))
        with torch.autocast(latents.device.type, enabled=False):
            log_magnitude, real, imaginary = hidden.float().chunk(3, dim=1)
            # The phase is a point on the circle, so that nothing wraps; +6 starts near the level of music.
            norm = torch.rsqrt(real.square() + imaginary.square() + 1e-8)
            magnitude = torch.exp(log_magnitude.clamp(max=7.0))
            spectrum = torch.complex(magnitude * real * norm, magnitude * imaginary * norm)
            return _istft(spectrum, self.window, self.config)[:, None]


class Stage(nn.Module):
    """1-d convolution to `channels`, LayerNorm, ConvNeXt blocks, LayerNorm; (B, in, T) -> (B, channels, T)."""

    def __init__(self, in_channels: int, channels: int, hidden: int, blocks: int, *, kernel: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(in_channels, channels, kernel, padding=kernel // 2)
        self.norm_in = nn.LayerNorm(channels, eps=1e-6)
        self.blocks = nn.ModuleList(Block(channels, hidden, scale=1 / blocks) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_in(self.embed(x).transpose(1, 2))  # (B, C, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.norm_out(x).transpose(1, 2)  # (B, T, C) -> (B, C, T)


class Block(nn.Module):
    """ConvNeXt with layer scale on (B, T, C). No GRN here: its statistic over time would make a segment's latents
    depend on the segment's length, and the cache promises that they do not."""

    def __init__(self, channels: int, hidden: int, *, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, hidden)
        self.project = nn.Linear(hidden, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)  # (B, T, C) -> (B, C, T) -> (B, T, C)
        return x + self.scale * self.project(F.gelu(self.expand(self.norm(y))))


def spectrum_features(spectrum: Tensor) -> Tensor:
    """Complex (B, F, T) -> real (B, 3F, T): the spectrum with its magnitude compressed to |S|^0.3, and log-magnitude.

    Uncompressed, the highs lie 60 dB below the lows and a small network never sees them.
    """
    magnitude = spectrum.abs().clamp(min=1e-4)
    compressed = spectrum * magnitude.pow(-0.7)
    return torch.cat([compressed.real, compressed.imag, 0.2 * torch.log(magnitude) + 0.6], dim=1)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv1d | nn.Linear | nn.ConvTranspose1d):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _stft(audio: Tensor, window: Tensor, config: VocosConfig) -> Tensor:
    """(B, L) -> (B, F, L/stft_hop), frame t centred on its own hop ("same" padding, zeros outside)."""
    edge = (config.n_fft - config.stft_hop) // 2
    return torch.stft(
        F.pad(audio, (edge, edge)), config.n_fft, config.stft_hop, window=window, center=False, return_complex=True
    )


def _istft(spectrum: Tensor, window: Tensor, config: VocosConfig) -> Tensor:
    """(B, F, T) -> (B, T*stft_hop): windowed overlap-add divided by the window's envelope; torch.istft cannot do
    this alignment, its frames are centred on multiples of the hop."""
    edge = (config.n_fft - config.stft_hop) // 2
    frames = torch.fft.irfft(spectrum, config.n_fft, dim=1) * window[:, None]
    length = (spectrum.shape[-1] - 1) * config.stft_hop + config.n_fft
    audio = _overlap_add(frames, config.stft_hop, length)
    envelope = _overlap_add(window.square()[None, :, None].expand(1, -1, frames.shape[-1]), config.stft_hop, length)
    return (audio / envelope.clamp(min=1e-8))[:, edge:-edge]


def _overlap_add(frames: Tensor, hop: int, length: int) -> Tensor:
    """(B, n_fft, T) -> (B, length)."""
    return F.fold(frames, output_size=(1, length), kernel_size=(1, frames.shape[1]), stride=(1, hop))[:, 0, 0]
