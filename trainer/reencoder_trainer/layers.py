"""ConvNeXt-V2 block for sequences, and the global response normalisation inside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GlobalResponseNorm(nn.Module):
    """GRN of ConvNeXt-V2: each channel is scaled by its L2 norm over time, relative to the mean over channels.

    The norm runs over the whole sequence, so an output frame depends on the length of what is given, not only on its
    neighbours. Both parameters start at zero: the layer starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        norm = torch.linalg.vector_norm(x.float(), dim=1, keepdim=True)  # float32: bfloat16 sums of squares lose digits
        response = (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)).to(x.dtype)
        return x + self.gain * (x * response) + self.bias


class ConvNeXtBlock(nn.Module):
    """One residual block of the latent module (paper, section 3.1.2).

    The expansion is 2, not ConvNeXt's usual 4: only then do 4 blocks of 512 and 8 of 768 have the paper's 4.3 M and
    19.1 M parameters.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, expansion: int = 2) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, expansion * channels)
        self.activation = nn.GELU()
        self.response_norm = GlobalResponseNorm(expansion * channels)
        self.project = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        y = self.depthwise(x).transpose(1, 2)  # (B, C, T) -> (B, T, C)
        y = self.activation(self.expand(self.norm(y)))
        y = self.project(self.response_norm(y))
        return x + y.transpose(1, 2)  # (B, T, C) -> (B, C, T)
