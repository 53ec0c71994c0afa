"""The variational condition: the encoder G_phi, its posterior, and the prior (paper, section 2.3, equation 5)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reencoder_trainer.module.layers import ConvNeXtBlock, level

START_DEVIATION = 0.1


class Posterior(NamedTuple):
    """A Gaussian over conditions: mean mu and log sigma^2, each (B, H) float32."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Equation 5: mu + sigma * noise, noise (B, H) from the standard normal."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


class ConditionEncoder(nn.Module):
    """G_phi: the stacked target latents of a whole piece -> a posterior over one condition vector for the piece.

    1x1 convolution, ConvNeXt-V2 blocks, mean over time, and a linear layer to mean and log variance. At the start the
    means are about as wide as the prior and the deviations are START_DEVIATION. A module that sees only noise in its
    conditions learns to ignore them, and the posterior collapses (trainer/LOG.md).

    `levels` (not in the paper) also gives the linear layer the level of left minus that of right, per channel in
    nepers. The mean over time contains it too, but other differences between pieces hide it there.
    """

    def __init__(
        self, in_channels: int, condition_channels: int, *, blocks: int, width: int, levels: bool = False
    ) -> None:
        super().__init__()
        self.in_channels, self.condition_channels, self.levels = in_channels, condition_channels, levels
        self.conv_in = nn.Conv1d(in_channels, width, kernel_size=1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(blocks)))
        differences = in_channels // 2 if levels else 0
        self.head = nn.Linear(width + differences, 2 * condition_channels)
        if self.head.weight.is_meta:  # only the shapes are needed, and drawing numbers on `meta` takes a second
            return
        nn.init.zeros_(self.head.weight)
        means = self.head.weight.data[:condition_channels]
        nn.init.normal_(means[:, :width], std=4 / math.sqrt(width))  # features of two pieces differ by about 1/4
        if levels:
            nn.init.normal_(means[:, width:], std=4 / math.sqrt(differences))
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[condition_channels:], 2 * math.log(START_DEVIATION))

    def forward(self, targets: Tensor) -> Posterior:
        """(B, in_channels, T) normalised latents -> posterior"""
        pooled = self.blocks(self.conv_in(targets)).mean(dim=2)
        if self.levels:
            left, right = level(targets, frames=targets.shape[-1]).squeeze(2).chunk(2, dim=1)
            pooled = torch.cat([pooled, left - right], dim=1)
        mean, log_variance = self.head(pooled).float().chunk(2, dim=1)
        return Posterior(mean, log_variance)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def standard_normal(num: int, channels: int, *, seed: int, step: int) -> Tensor:
    """(num, channels) float32 on the CPU, a pure function of (seed, step): the prior, or equation 5's epsilon.

    It is drawn for the global batch and each rank takes its slice, so it does not depend on the number of ranks. The
    generator is Philox, as in `draw_windows`, at another counter. (torch's CPU generator keeps only 32 bits of a seed.)
    """
    return torch.from_numpy(_generator(seed, step, part=1).standard_normal((num, channels), dtype=np.float32))


def coin_tosses(num: int, *, seed: int, step: int) -> Tensor:
    """(num,) booleans, True with probability 1/2, a pure function of (seed, step)."""
    return torch.from_numpy(_generator(seed, step, part=2).random(num) < 0.5)


def _generator(seed: int, step: int, *, part: int) -> np.random.Generator:
    key, counter = np.array([seed, step], dtype=np.uint64), np.array([0, 0, 0, part], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def interpolated(oracle: Tensor, prior: Tensor, *, share: float) -> Tensor:
    """share * oracle + (1 - share) * prior. `share` is the paper's lambda (section 4.2): 1 gives the oracle."""
    return share * oracle + (1 - share) * prior
