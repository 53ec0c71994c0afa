"""The latent discriminator D: scores latents seen as one-channel images (paper, sections 2.2 and 3.1.2)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from reencoder_pipeline.autoencoders.vocos.training.adversary import feature_maps

KERNELS = ((3, 7), (3, 7), (3, 7), (3, 7), (3, 7), (3, 3))
SLOPE = 0.1  # of the leaky ReLU, as in DAC's discriminators: this one is built like one band of them
MIN_FRAMES = 21  # five kernels of 7 with padding 1 take away 4 frames each


class LatentDiscriminator(nn.Module):
    """Six Conv2d over (latent channel, frame), kernels (3, 7) five times and (3, 3), stride 1, padding 1.

    A leaky ReLU follows every layer except the last, which gives the scores: 1 means "encoded from audio". Each kernel
    of 7 removes 4 frames, so T frames have scores for T - 20.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        widths = (1, *(channels,) * (len(KERNELS) - 1), 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding=1)
            for (before, after), kernel in zip(pairwise(widths), KERNELS, strict=True)
        )

    def forward(self, latents: Tensor) -> list[Tensor]:
        """Normalised latents (B, C, T) -> the maps of all six layers, each (B, channels, C, T'); the last has scores"""
        x = latents[:, None].contiguous(memory_format=torch.channels_last)  # (B, C, T) -> (B, 1, C, T)
        maps = feature_maps(x, self.layers[:-1], slope=SLOPE)
        return [*maps, self.layers[-1](maps[-1])]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
