"""Aero with its discriminator, losses and settings, for the trainer of baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from reencoder_eval.baselines.adversarial import AdversarialTraining
from reencoder_eval.baselines.aero.checkpoint import save_aero
from reencoder_eval.baselines.aero.discriminators import MultiScaleDiscriminator
from reencoder_eval.baselines.aero.losses import aero_losses, hinge_loss_of_discriminator
from reencoder_eval.baselines.aero.model import Aero, AeroConfig
from reencoder_pipeline.audio.resampling import resample


def aero_training(config: AeroConfig, *, filters: int = 16, seed: int = 0) -> AdversarialTraining:
    """The published recipe: Adam at 3e-4, betas 0.9 and 0.999, no decay; 125 epochs with 16 excerpts of 2 s a step.

    (The original configuration has 0.8 for the first beta, but its code uses 0.9.) `filters` are the
    discriminator's. `seed` sets the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = Aero(config), MultiScaleDiscriminator(filters=filters)

    def prepare(excerpt: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 or 2, n) -> mono at the low rate and at the high rate, cut to whole samples of the low rate."""
        target = excerpt[..., : excerpt.shape[-1] // config.factor * config.factor].float().mean(dim=1)
        low = resample(target.cpu().numpy(), config.high_rate, config.low_rate)  # as in evaluation
        return torch.from_numpy(low)[:, None].to(target.device), target[:, None]

    return AdversarialTraining(
        generator=generator,
        discriminator=discriminator,
        prepare=prepare,
        generator_loss=aero_losses,
        discriminator_loss=hinge_loss_of_discriminator,
        save=lambda path, said: save_aero(path, generator, training=said),
        learning_rate=3e-4,
        betas=(0.9, 0.999),
    )
