"""One update of the latent module, and the learning rate it is made with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from reencoder_pipeline.errors import TrainingError
from reencoder_pipeline.ranks import Ranks
from reencoder_pipeline.tasks import Task
from reencoder_trainer.losses import reconstruction_loss
from reencoder_trainer.normalisation import Normalisation

Schedule = Literal["constant", "cosine"]


def learning_rate(step: int, *, peak: float, warmup_steps: int, schedule: Schedule, steps: int) -> float:
    """The rate of update `step` (from 0) of `steps`: linear warm-up to `peak`, then constant or a cosine down to 0.

    A function of the step and not a scheduler object, so there is no scheduler state to restore.
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else 1.0
    return peak * warmup * decay


def make_optimizer(module: nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW in one fused kernel (CPU and CUDA have it); its rate is set at every update."""
    return torch.optim.AdamW(module.parameters(), weight_decay=weight_decay, fused=True)


def stacked(batch: Mapping[str, Tensor], streams: Sequence[str], device: torch.device) -> Tensor:
    """Raw windows (B, T, C) of each stream -> raw latents (B, C of all, T) on `device`.

    What travels to the device is the cache's float16; widening and transposing are its work, the CPU is slow at both.
    """
    windows = torch.cat([batch[stream].to(device) for stream in streams], dim=2)
    return windows.transpose(1, 2)  # (B, T, C) -> (B, C, T)


def estimate(module: nn.Module, inputs: Tensor) -> Tensor:
    """The module's prediction from normalised latents; in bfloat16 autocast on CUDA, in float32 elsewhere."""
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=inputs.device.type == "cuda"):
        return module(inputs)


def update(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    *,
    task: Task,
    normalisation: Normalisation,
    rate: float,
    max_grad_norm: float,
    ranks: Ranks,
    where: str,
) -> dict[str, float]:
    """Learn from one batch of raw windows; returns `l1`, `grad_norm` (before clipping) and `lr`.

    TrainingError, at `where` and before anything is changed, if the loss or the gradient is not finite. Both are the
    same on every rank, so that all of them stop.
    """
    inputs = normalisation.inputs.apply(stacked(batch, task.inputs, ranks.device))
    targets = normalisation.targets.apply(stacked(batch, task.targets, ranks.device))
    loss = reconstruction_loss(estimate(module, inputs), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
    # One transfer from the device for both numbers.
    l1, norm = torch.stack([ranks.mean(loss.detach()), grad_norm.detach()]).tolist()
    if not (math.isfinite(l1) and math.isfinite(norm)):
        bad = [stream for stream in task.streams if not torch.isfinite(batch[stream]).all()]
        raise TrainingError(
            "the loss or its gradient is not finite",
            where=where,
            value=f"l1 {l1}, gradient norm {norm}; latents that are not finite in: {', '.join(bad) or 'no stream'}",
            remedy="run `reencoder-cache verify` on the cache" if bad else "lower lr or raise warmup_steps",
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return {"l1": l1, "grad_norm": norm, "lr": rate}
