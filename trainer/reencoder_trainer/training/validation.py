"""What a module is worth on unseen tracks: its L1 beside two predictions that need no module."""

from __future__ import annotations

import torch

from reencoder_pipeline.tasks import Task
from reencoder_pipeline.training.autocast import Precision, autocast
from reencoder_trainer.module.condition import standard_normal
from reencoder_trainer.module.normalisation import Normalisation
from reencoder_trainer.training.learner import Estimator, stacked
from reencoder_trainer.training.losses import kl_divergence, level_loss, reconstruction_loss
from reencoder_trainer.windows.mapped_windows import Windows


@torch.inference_mode()
def validate(
    estimator: Estimator,
    loader: Windows,
    *,
    task: Task,
    normalisation: Normalisation,
    num_windows: int,
    batch_size: int,
    precision: Precision,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """L1 in the targets' normalised space over a fixed set of windows (whole batches, a function of the loader's seed).

    `l1` is the module's. `l1_no_module` takes the raw input for the prediction, for each target stream alike.
    `l1_channel_means` predicts every channel's mean, which is zero in this space. A module below neither has learnt
    nothing. With a condition, `l1` is that of the oracle's (the posterior's mean), `l1_random` that of one from the
    prior, and `kl` what the posterior knows in nats. `level` goes with every `l1` but that of the means: how far
    levels are apart, which an L1 does not say (`level_loss`). No layer behaves differently in training, so the
    module's mode is left alone.
    """
    sums: dict[str, float] = {}
    num_batches = -(-num_windows // batch_size)
    for index in range(num_batches):
        batch = loader.batch(index, batch_size=batch_size)
        raw = stacked(batch, task.inputs, device)
        inputs = normalisation.inputs.apply(raw)
        targets = normalisation.targets.apply(stacked(batch, task.targets, device))
        copies = normalisation.targets.num_channels // normalisation.inputs.num_channels
        with autocast(device, precision):
            if estimator.encoder is None:
                estimates, losses = {"l1": estimator.module(inputs)}, {}
            else:
                posterior = estimator.encoder(targets)
                random = standard_normal(*posterior.mean.shape, seed=seed, step=index).to(device)
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
