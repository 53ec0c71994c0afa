"""The latent module F_theta: latents of the input streams -> latents of the target streams (paper, 2.1 and 3.1.2)."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from reencoder_trainer.module.layers import ConvNeXtBlock


class Size(NamedTuple):
    """How many ConvNeXt blocks a module has and how many channels they work on."""

    blocks: int
    width: int


SIZES = {"S": Size(blocks=4, width=512), "M": Size(blocks=8, width=768)}
"""The paper's two sizes. With 64 channels in and out they have 4,295,232 and 19,077,952 parameters; at 44100/1024
frames per second they take 0.37 and 1.64 GFLOPs per second of audio."""

Output = Literal["direct", "residual", "difference", "panning"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


class LatentModule(nn.Module):
    """1x1 convolution, ConvNeXt-V2 blocks, 1x1 convolution, on normalised latents; streams are stacked along channels.

    `output` names what the last convolution predicts:
      direct      The target latents, as in the paper.
      residual    What is added to the input, which is copied for each target stream. The prediction starts at zero, so
                  training starts at the input itself.
      difference  For two targets: d, half of left minus right; the targets are input + d and input - d. Two errors
                  remain: what latents lose when two channels are mixed, and the difference between the deviations of
                  mono and of the channels, because all of this is in normalised latents.
      panning     A difference d = gain * input + offset, with a gain and an offset for each channel and frame. Channels
                  that carry waveform samples need a gain to be panned; layer norm removes their scale, so the blocks
                  cannot produce one and the output layer must. A condition also adds a constant to each channel's gain.
    `condition_channels` above 0 gives every block a condition through AdaLN. `response_frames` is GlobalResponseNorm's
    `frames`.

    Example::

        module = LatentModule(64, 64, blocks=4, width=512)
        estimate = module(torch.randn(1, 64, 43))  # (1, 64, 43): one second
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        width: int,
        output: Output = "direct",
        condition_channels: int = 0,
        response_frames: int | None = None,
    ) -> None:
        super().__init__()
        assert output in OUTPUTS, output
        assert output == "direct" or out_channels % in_channels == 0, "targets must be whole copies of the input"
        assert output not in ("difference", "panning") or out_channels == 2 * in_channels, "needs two targets"
        self.in_channels, self.out_channels = in_channels, out_channels
        self.size = Size(blocks, width)
        self.output: Output = output
        self.condition_channels, self.response_frames = condition_channels, response_frames
        self.conv_in = nn.Conv1d(in_channels, width, kernel_size=1)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, condition_channels=condition_channels, response_frames=response_frames)
            for _ in range(blocks)
        )
        predicted = in_channels if output == "difference" else out_channels  # for panning: gains and offsets
        self.conv_out = nn.Conv1d(width, predicted, kernel_size=1)
        self.pan = None
        if output == "panning" and condition_channels:
            self.pan = nn.Linear(condition_channels, in_channels, bias=False)
            nn.init.zeros_(self.pan.weight)
        if output != "direct":
            nn.init.zeros_(self.conv_out.weight)
            assert self.conv_out.bias is not None
            nn.init.zeros_(self.conv_out.bias)

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, in_channels, T), condition (B, condition_channels) if the module takes one -> (B, out_channels, T)"""
        hidden = self.conv_in(latents)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.completed(latents, self.conv_out(hidden), condition)

    def completed(self, latents: Tensor, predicted: Tensor, condition: Tensor | None) -> Tensor:
        """Input (B, in_channels, T) and the last convolution's output -> the targets (B, out_channels, T)"""
        if self.output == "residual":
            return latents.repeat(1, self.out_channels // self.in_channels, 1) + predicted
        if self.output == "direct":
            return predicted
        if self.output == "panning":
            gain, offset = predicted.chunk(2, dim=1)
            if self.pan is not None and condition is not None:
                gain = gain + self.pan(condition)[:, :, None]
            predicted = torch.addcmul(offset, gain, latents)
        return torch.cat([latents + predicted, latents - predicted], dim=1)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
