"""Oobleck laid out as stable-audio-tools lays it out: nested nn.Sequential, snakes of (C,), and its model_config.json.

Written down once more and independently of the package, so that a key map that is wrong decodes to another sound here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

CHANNELS, MULTIPLES, STRIDES, LATENTS, RATE = 8, (1, 2, 2), (2, 4, 8), 4, 8_000
CONFIG = {
    "model_type": "diffusion_cond",
    "sample_rate": RATE,
    "model": {
        "pretransform": {
            "type": "autoencoder",
            "scale": 2.0,
            "config": {
                "encoder": {
                    "type": "oobleck",
                    "config": {
                        "in_channels": 2,
                        "channels": CHANNELS,
                        "c_mults": MULTIPLES,
                        "strides": STRIDES,
                        "latent_dim": 2 * LATENTS,
                        "use_snake": True,
                    },
                },
                "decoder": {
                    "type": "oobleck",
                    "config": {
                        "out_channels": 2,
                        "channels": CHANNELS,
                        "c_mults": MULTIPLES,
                        "strides": STRIDES,
                        "latent_dim": LATENTS,
                        "use_snake": True,
                        "final_tanh": False,
                    },
                },
                "bottleneck": {"type": "vae"},
                "latent_dim": LATENTS,
                "io_channels": 2,
            },
        }
    },
}


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(0.3 * torch.randn(channels))
        self.beta = nn.Parameter(0.3 * torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[None, :, None], self.beta.exp()[None, :, None]
        return x + torch.sin(alpha * x).square() / (beta + 1e-9)


class Unit(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(channels),
            weight_norm(nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)),
            Snake(channels),
            weight_norm(nn.Conv1d(channels, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Block(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [CHANNELS, *(CHANNELS * multiple for multiple in MULTIPLES)]
        stages = list(zip(widths[:-1], widths[1:], STRIDES, strict=True))
        self.encoder = Block(
            weight_norm(nn.Conv1d(2, CHANNELS, 7, padding=3)),
            *(
                Block(
                    *(Unit(narrow, dilation) for dilation in (1, 3, 9)),
                    Snake(narrow),
                    weight_norm(nn.Conv1d(narrow, wide, 2 * stride, stride, padding=math.ceil(stride / 2))),
                )
                for narrow, wide, stride in stages
            ),
            Snake(widths[-1]),
            weight_norm(nn.Conv1d(widths[-1], 2 * LATENTS, 3, padding=1)),
        )
        self.decoder = Block(
            weight_norm(nn.Conv1d(LATENTS, widths[-1], 7, padding=3)),
            *(
                Block(
                    Snake(wide),
                    weight_norm(nn.ConvTranspose1d(wide, narrow, 2 * stride, stride, padding=math.ceil(stride / 2))),
                    *(Unit(narrow, dilation) for dilation in (1, 3, 9)),
                )
                for narrow, wide, stride in reversed(stages)
            ),
            Snake(CHANNELS),
            weight_norm(nn.Conv1d(CHANNELS, 2, 7, padding=3, bias=False)),
            nn.Identity(),
        )

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, L) -> the mean of its latents as a whole model scales them, and the audio decoded from it."""
        mean = self.encoder(audio).chunk(2, dim=1)[0]
        return mean / 2.0, self.decoder(mean)
