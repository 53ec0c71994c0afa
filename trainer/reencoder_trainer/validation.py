"""What a module is worth on unseen tracks: its L1 beside two predictions that need no module."""

from __future__ import annotations

import torch
from torch import nn

from reencoder_pipeline.tasks import Task
from reencoder_trainer.losses import reconstruction_loss
from reencoder_trainer.normalisation import Normalisation
from reencoder_trainer.step import estimate, stacked
from reencoder_trainer.windows import WindowLoader


@torch.inference_mode()
def validate(
    module: nn.Module,
    loader: WindowLoader,
    *,
    task: Task,
    normalisation: Normalisation,
    num_windows: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """L1 in the targets' normalised space over a fixed set of windows (whole batches, a function of the loader's seed).

    `l1` is the module's. `l1_no_module` takes the raw input for the prediction, for each target stream alike.
    `l1_channel_means` predicts every channel's mean, which is zero in this space. A module below neither has learnt
    nothing. No layer behaves differently in training, so the module's mode is left alone.
    """
    sums = {"l1": 0.0, "l1_no_module": 0.0, "l1_channel_means": 0.0}
    num_batches = -(-num_windows // batch_size)
    for index in range(num_batches):
        batch = loader.batch(index, batch_size=batch_size)
        raw = stacked(batch, task.inputs, device)
        targets = normalisation.targets.apply(stacked(batch, task.targets, device))
        copies = normalisation.targets.num_channels // normalisation.inputs.num_channels
        estimates = {
            "l1": estimate(module, normalisation.inputs.apply(raw)),
            "l1_no_module": normalisation.targets.apply(raw.repeat(1, copies, 1)),
            "l1_channel_means": torch.zeros_like(targets),
        }
        for name, latents in estimates.items():
            sums[name] += reconstruction_loss(latents, targets).item()
    return {name: total / num_batches for name, total in sums.items()}
