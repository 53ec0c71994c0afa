"""Describes the adversarial training of a baseline, so that one trainer serves every baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

FeatureMaps = list[list[Tensor]]  # for each sub-discriminator its feature maps; the last one holds the scores


@dataclass(frozen=True)
class AdversarialTraining:
    """A generator, its discriminator, and the losses of both.

    - `prepare` maps a full-rate excerpt (B, 1 or 2, n) to the generator's input, of any form, and the target (B, 1, n).
    - `generate` maps that input to the estimate (B, 1, n).
    - `discriminator` maps audio (B, 1, n) to feature maps.
    - `generator_loss(estimate, target, of_estimate, of_target)` gives named, weighted terms whose sum is minimised. If
      the feature maps are empty, it gives only terms that need no discriminator.
    - `discriminator_loss(of_estimate, of_target)` gives a scalar.

    Both networks are trained by AdamW with `learning_rate`, `betas` and `weight_decay` (0.0: plain Adam). After every
    step the learning rate is multiplied by `decay` (1.0: constant).
    """

    generator: nn.Module
    discriminator: nn.Module
    prepare: Callable[[Tensor], tuple[Tensor, Tensor]]
    generate: Callable[[Tensor], Tensor]
    generator_loss: Callable[[Tensor, Tensor, FeatureMaps, FeatureMaps], dict[str, Tensor]]
    discriminator_loss: Callable[[FeatureMaps, FeatureMaps], Tensor]
    learning_rate: float
    betas: tuple[float, float]
    decay: float = 1.0
    weight_decay: float = 0.0
