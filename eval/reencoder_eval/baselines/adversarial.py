"""Describes the adversarial training of a baseline, so that one trainer serves every baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FeatureMaps = list[list[Tensor]]  # for each sub-discriminator its feature maps; the last one holds the scores


@dataclass(frozen=True)
class AdversarialTraining:
    """A generator, its discriminator, and the losses of both.

    - `prepare` maps a full-rate excerpt (B, 1 or 2, n) to the generator's input, of any form, and the target (B, 1, n).
    - `generator` maps that input to the estimate (B, 1, n).
    - `discriminator` maps audio (B, 1, n) to feature maps.
    - `generator_loss(estimate, target, of_estimate, of_target)` gives named, weighted terms whose sum is minimised. If
      the feature maps are empty, it gives only terms that need no discriminator.
    - `discriminator_loss(of_estimate, of_target)` gives a scalar.
    - `save(path, training)` writes the generator's weights and what `training` says of their origin.

    Both networks are trained by AdamW with `learning_rate`, `betas` and `weight_decay` (0.0: plain Adam). After every
    step the learning rate is multiplied by `decay` (1.0: constant).
    """

    generator: nn.Module
    discriminator: nn.Module
    prepare: Callable[[Tensor], tuple[Tensor, Tensor]]
    generator_loss: Callable[[Tensor, Tensor, FeatureMaps, FeatureMaps], dict[str, Tensor]]
    discriminator_loss: Callable[[FeatureMaps, FeatureMaps], Tensor]
    save: Callable[[Path, Mapping[str, Any]], None]
    learning_rate: float
    betas: tuple[float, float]
    decay: float = 1.0
    weight_decay: float = 0.0


def feature_distance(of_estimate: FeatureMaps, of_target: FeatureMaps) -> Tensor:
    """Sum of the mean L1 distances of all feature maps except the scores."""
    distances = [
        (ours.float() - theirs.detach().float()).abs().mean()
        for estimated, true in zip(of_estimate, of_target, strict=True)
        for ours, theirs in zip(estimated[:-1], true[:-1], strict=True)
    ]
    return torch.stack(distances).sum()
