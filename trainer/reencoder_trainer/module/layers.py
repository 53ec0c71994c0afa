"""The ConvNeXt-V2 block for sequences and its two norms: global response norm and adaptive layer norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = 1e-12  # keeps square roots away from zero, where they have no gradient
LEVEL_FLOOR = 1e-4  # added to a mean square: levels below -40 dB of a channel's deviation all look alike


def level(latents: Tensor, *, frames: int) -> Tensor:
    """(B, C, T) -> (B, C, pieces): log of the root mean square of half-overlapping pieces of `frames` frames."""
    means = nn.functional.avg_pool1d(latents.float().square(), frames, stride=max(1, frames // 2))
    return 0.5 * (means + LEVEL_FLOOR).log()


class GlobalResponseNorm(nn.Module):
    """GRN of ConvNeXt-V2: each channel is scaled by its L2 norm over time, relative to the mean over channels.

    The norm is over the whole sequence, so every output frame depends on every input frame. With `frames` (odd) it is
    the root mean square of that many frames around each frame: then the output does not depend on the length of the
    piece, and a piece can be processed as it arrives. Both parameters start at zero, so the layer starts as the
    identity.
    """

    def __init__(self, channels: int, *, frames: int | None = None) -> None:
        super().__init__()
        assert frames is None or frames % 2 == 1, "a window around a frame has an odd length"
        self.frames = frames
        self.gain = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        norm = self._norm(x.float())  # float32: bfloat16 sums of squares lose digits
        return self.scaled(x, norm)

    def scaled(self, x: Tensor, norm: Tensor) -> Tensor:
        """(B, T, C), norm (B, 1 or T, C) -> (B, T, C): x + gain * x * response + bias, in one pass over x."""
        response = (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)).to(x.dtype)
        return torch.addcmul(self.bias, x, 1 + self.gain * response)

    def _norm(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, 1, C) over the whole piece, or (B, T, C) around each frame."""
        if self.frames is None:  # vector_norm takes 7 to 20 times as long here, which was 15 % of size S's time
            return (x.square().sum(dim=1, keepdim=True) + TINY).sqrt()
        if self.frames == 1:
            return x.abs()
        energy = nn.functional.avg_pool1d(
            x.square().transpose(1, 2),  # (B, T, C) -> (B, C, T)
            self.frames,
            stride=1,
            padding=self.frames // 2,  # zeros beyond the ends scale all channels alike, which cancels
        )
        return (energy + TINY).sqrt().transpose(1, 2)


class AdaptiveLayerNorm(nn.Module):
    """AdaLN: layer norm whose scale and shift are linear in a condition (paper, section 3.1.2).

    The projection starts at zero, so the layer starts as a plain layer norm. The projection has no bias and the norm no
    parameters of its own, because the next linear layer of the block can do the same. M2S then has 24.84 M parameters;
    the paper says 24.8.
    """

    def __init__(self, channels: int, condition_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6, elementwise_affine=False)
        self.project = nn.Linear(condition_channels, 2 * channels, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, T, C), condition (B, H) -> (B, T, C)"""
        scale, shift = self.project(condition)[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class ConvNeXtBlock(nn.Module):
    """One residual block of the latent module (paper, section 3.1.2).

    The expansion is 2, not ConvNeXt's usual 4: only with 2 do 4 blocks of 512 and 8 of 768 have the paper's 4.3 M and
    19.1 M parameters. `condition_channels` above 0 makes the norm an AdaLN. `response_frames` is GlobalResponseNorm's
    `frames`.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        expansion: int = 2,
        condition_channels: int = 0,
        response_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = (
            AdaptiveLayerNorm(channels, condition_channels) if condition_channels else nn.LayerNorm(channels, eps=1e-6)
        )
        self.expand = nn.Linear(channels, expansion * channels)
        self.activation = nn.GELU()
        self.response_norm = GlobalResponseNorm(expansion * channels, frames=response_frames)
        self.project = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, C, T), condition (B, H) if the block takes one -> (B, C, T)"""
        y = self.depthwise(x).transpose(1, 2)  # (B, C, T) -> (B, T, C)
        y = self.norm(y) if condition is None else self.norm(y, condition)
        y = self.project(self.response_norm(self.activation(self.expand(y))))
        return x + y.transpose(1, 2)  # (B, T, C) -> (B, C, T)
