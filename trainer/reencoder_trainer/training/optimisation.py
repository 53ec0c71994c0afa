"""AdamW, the learning rate of a step, and the average of weights."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

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


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, *, decay: float, step: int) -> None:
    """average <- decay * average + (1 - decay) * module; early on the decay is smaller, to forget the start."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1.0 - decay)


@torch.no_grad()
def gradient_norm(module: nn.Module, *, max_norm: float | None) -> torch.Tensor:
    """The norm of all gradients, which are clipped to `max_norm` if one is given."""
    if max_norm is not None:
        return nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
