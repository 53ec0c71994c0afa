"""Defines the Vocos network: STFT -> blocks at 172 Hz -> stride 4 -> blocks at 43 Hz -> posterior, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.autoencoders.vocos.straight_paths import (
    EnvelopeAnalysis,
    EnvelopeSynthesis,
    LappedAnalysis,
    LappedSynthesis,
)


class Vocos(nn.Module):
    """`encoder`: (B, 1, L) -> mean and log-variance, (B, C, L/hop) each, with L a multiple of hop.
    `decoder`: (B, C, T) -> (B, 1, T*hop).

    Example::

        mean, log_variance = Vocos(VocosConfig()).encoder(torch.zeros(1, 1, 2048))  # (1, 64, 2) each
    """

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.apply(_initialise)
        if config.lapped or config.envelope:
            _start_with_straight_paths(self)

    def forward(self, audio: Tensor, noise: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training pass: (B, 1, L), noise (B, C, T), shares (n,) with 2n <= B -> audio (B+n, 1, L), mean, log-variance.

        The first B outputs reconstruct posterior samples. The last n decode mixtures of latents: share a of item i and
        1-a of item n+i. Their audio should be the same mixture of the items' audio (the decode-mixing loss).
        """
        mean, log_variance = self.encoder(audio)
        latents = mean + torch.exp(0.5 * log_variance) * noise
        return self.decoder(torch.cat([latents, mixtures(latents, shares)])), mean, log_variance


def mixtures(items: Tensor, shares: Tensor) -> Tensor:
    """(B, C, T), (n,) -> (n, C, T): shares[i] of item i and the rest of item n+i."""
    n, shares = len(shares), shares[:, None, None]
    return shares * items[:n] + (1 - shares) * items[n : 2 * n]


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
        self.lapped = LappedAnalysis(config) if config.lapped else None
        self.envelope = EnvelopeAnalysis(config) if config.envelope else None

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = _stft(audio[:, 0].float(), self.window, self.config)
            features = spectrum_features(spectrum)
        hidden = self.coarse(self.down(self.fine(features)))
        mean, log_variance = self.posterior(hidden).float().chunk(2, dim=1)
        if self.lapped is not None:
            mean = mean + self.lapped(audio)
        if self.envelope is not None:
            mean = mean + self.envelope(log_magnitude(spectrum))
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
        self.lapped = LappedSynthesis(config) if config.lapped else None
        self.fine = Stage(config.fine[0] + 3 * config.lapped_bins, *config.fine, kernel=1)
        self.envelope = EnvelopeSynthesis(config) if config.envelope else None
        self.head = nn.Conv1d(config.fine[0], 3 * bins, 1)

    def forward(self, latents: Tensor) -> Tensor:
        hidden, rough = self.up(self.coarse(latents)), None
        if self.lapped is not None:
            rough = self.lapped(latents)
            with torch.autocast(latents.device.type, enabled=False):
                spectrum = _stft(rough[:, 0], self.window, self.config)[:, : self.config.lapped_bins]
                hidden = torch.cat([hidden.float(), spectrum_features(spectrum)], dim=1)
        hidden = self.head(self.fine(hidden))
        with torch.autocast(latents.device.type, enabled=False):
            level, real, imaginary = hidden.float().chunk(3, dim=1)
            if self.envelope is not None:
                level = level + self.envelope(latents)
            # The phase is a point on the circle, so that nothing wraps.
            norm = torch.rsqrt(real.square() + imaginary.square() + 1e-8)
            magnitude = torch.exp(level.clamp(max=7.0))
            spectrum = torch.complex(magnitude * real * norm, magnitude * imaginary * norm)
            audio = _istft(spectrum, self.window, self.config)[:, None]
        return audio if rough is None else rough + audio


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


def log_magnitude(spectrum: Tensor) -> Tensor:
    """Complex (B, F, T) -> nepers, not below ln 1e-4."""
    return spectrum.abs().clamp(min=1e-4).log()


def _start_with_straight_paths(model: Vocos) -> None:
    """Start the network's part of the straight paths' channels and of the levels at zero, and the posterior's noise
    near zero: noise with sigma 1 would bury the straight paths."""
    channels, config = model.config.latent_channels, model.config
    posterior, head = model.encoder.posterior, model.decoder.head
    nn.init.constant_(posterior.get_parameter("bias")[channels:], -4.0)
    if config.envelope:
        nn.init.zeros_(posterior.weight[: config.lapped + config.envelope])
        nn.init.zeros_(head.weight[: head.out_channels // 3])


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
    """(B, F, T) -> (B, T*stft_hop): windowed overlap-add divided by the window's envelope. torch.istft cannot align
    frames this way: it centres them on multiples of the hop."""
    edge = (config.n_fft - config.stft_hop) // 2
    frames = torch.fft.irfft(spectrum, config.n_fft, dim=1) * window[:, None]
    length = (spectrum.shape[-1] - 1) * config.stft_hop + config.n_fft
    audio = _overlap_add(frames, config.stft_hop, length)
    envelope = _overlap_add(window.square()[None, :, None].expand(1, -1, frames.shape[-1]), config.stft_hop, length)
    return (audio / envelope.clamp(min=1e-8))[:, edge:-edge]


def _overlap_add(frames: Tensor, hop: int, length: int) -> Tensor:
    """(B, n_fft, T) -> (B, length)."""
    return F.fold(frames, output_size=(1, length), kernel_size=(1, frames.shape[1]), stride=(1, hop))[:, 0, 0]
