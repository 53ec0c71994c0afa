"""A tiny AERO."""

from __future__ import annotations

import torch
from torch import Tensor

from reencoder_eval.baselines.aero.model import AeroConfig

TINY = AeroConfig(channels=4, n_fft=64, hop=16, strides=(4, 2, 2))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patterned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights from a formula, so that another program can have the same."""
    filled = {}
    for index, (name, tensor) in enumerate(sorted(state.items())):
        values = 0.5 * torch.sin(torch.arange(tensor.numel()) * 0.7 + index).reshape(tensor.shape)
        positive = name.endswith(("running_var", "act.a"))
        filled[name] = values.abs() + 0.5 if positive else values if tensor.is_floating_point() else tensor
    return filled
