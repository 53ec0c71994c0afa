"""The latent module F_theta: latents of the input streams -> latents of the target streams (paper, 2.1 and 3.1.2)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from reencoder_trainer.layers import ConvNeXtBlock


class Size(NamedTuple):
    """How many ConvNeXt blocks a module has and how many channels they work on."""

    blocks: int
    width: int


SIZES = {"S": Size(blocks=4, width=512), "M": Size(blocks=8, width=768)}
"""The paper's two. For 64 channels in and out: 4,295,232 and 19,077,952 parameters; at 44100/1024 frames per second
0.37 and 1.64 GFLOPs per second of audio."""


class LatentModule(nn.Module):
    """1x1 convolution, ConvNeXt-V2 blocks, 1x1 convolution.

    With `residual` the prediction is input + output, and the output convolution starts at zero, so that training starts
    at the input itself; it needs as many channels in as out. Latents are normalised ones; several streams are stacked
    along channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, blocks: int, width: int, residual: bool = False) -> None:
        super().__init__()
        assert not residual or in_channels == out_channels, "a residual module has as many channels in as out"
        self.in_channels, self.out_channels = in_channels, out_channels
        self.size = Size(blocks, width)
        self.residual = residual
        self.conv_in = nn.Conv1d(in_channels, width, kernel_size=1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(blocks)))
        self.conv_out = nn.Conv1d(width, out_channels, kernel_size=1)
        if residual:
            nn.init.zeros_(self.conv_out.weight)
            assert self.conv_out.bias is not None
            nn.init.zeros_(self.conv_out.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T)"""
        output = self.conv_out(self.blocks(self.conv_in(latents)))
        return latents + output if self.residual else output

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
