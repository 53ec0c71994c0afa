"""Validates a module on unseen tracks: its L1 beside two predictions that need no module."""

from __future__ import annotations

import torch

from reencoder_pipeline.training.autocast import autocast
from reencoder_trainer.module.condition import standard_normal
from reencoder_trainer.training.learner import Learner, stacked
from reencoder_trainer.training.losses import kl_divergence, level_loss, reconstruction_loss
from reencoder_trainer.windows.pooled_windows import Windows


@torch.inference_mode()
def validate(learner: Learner, loader: Windows, *, num_windows: int) -> dict[str, float]:
    """L1 in the targets' normalised space over a fixed set of windows (whole batches, a function of the loader's seed).

    `l1` is that of the averaged weights. `l1_no_module` takes the raw input for the prediction, for each target stream
    alike. `l1_channel_means` predicts every channel's mean, which is zero in this space. A module below neither has
    learnt nothing. With a condition, `l1` uses the oracle's (the posterior's mean), `l1_random` one drawn from the
    prior, and `kl` is the information in the posterior, in nats. `level*`, for each of these but the means, is the
    level error, which L1 does not show (`level_loss`). No layer behaves differently in training, so the module's mode
    is left alone.
    """
    config, task, normalisation, device = learner.config, learner.task, learner.normalisation, learner.ranks.device
    estimator = learner.average
    sums: dict[str, float] = {}
    num_batches = -(-num_windows // config.batch_size)
    for index in range(num_batches):
        batch = loader.batch(index, batch_size=config.batch_size)
        raw = stacked(batch, task.inputs, device)
        inputs = normalisation.inputs.apply(raw)
        targets = normalisation.targets.apply(stacked(batch, task.targets, device))
        copies = normalisation.targets.num_channels // normalisation.inputs.num_channels
        with autocast(device, config.precision):
            if estimator.encoder is None:
                estimates, losses = {"l1": estimator.module(inputs)}, {}
            else:
                posterior = estimator.encoder(targets)
                random = standard_normal(*posterior.mean.shape, seed=config.seed, step=index).to(device)
                estimates = {
                    "l1": estimator.module(inputs, posterior.mean),
                    "l1_random": estimator.module(inputs, random),
                }
                losses = {"kl": kl_divergence(posterior)}
        estimates["l1_no_module"] = normalisation.targets.apply(raw.repeat(1, copies, 1))
        for name, latents in estimates.items():
            losses[name.replace("l1", "level")] = level_loss(latents, targets, streams=len(task.targets))
        estimates["l1_channel_means"] = torch.zeros_like(targets)
        losses |= {name: reconstruction_loss(latents, targets) for name, latents in estimates.items()}
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item()
    return {name: total / num_batches for name, total in sums.items()}
