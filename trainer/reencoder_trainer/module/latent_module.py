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
"""The paper's two. For 64 channels in and out: 4,295,232 and 19,077,952 parameters; at 44100/1024 frames per second
0.37 and 1.64 GFLOPs per second of audio."""

Output = Literal["direct", "residual", "difference", "panning"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


class LatentModule(nn.Module):
    """1x1 convolution, ConvNeXt-V2 blocks, 1x1 convolution, on normalised latents; streams are stacked along channels.

    `output` says what the last convolution predicts:
      direct      the target latents, as in the paper
      residual    what to add to the input, to a copy of it for each target stream; starts at zero, so that training
                  starts at the input itself
      difference  for two targets: half of left minus right; the targets are input + d and input - d. What the
                  autoencoder's latents lose when two channels are mixed stays as an error, and so does what mono and
                  the channels differ by in deviation, since all of this is in normalised latents.
      panning     a difference d = gain * input + offset, both of every channel and frame: channels that sample a
                  waveform are moved to one side by a gain, which a layer norm leaves nobody able to copy. A condition
                  adds to the gains directly too: of each channel so much for the whole piece
    With `condition_channels` every block takes a condition through AdaLN.
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
        assert output == "direct" or out_channels % in_channels == 0, "copies of the input fill the targets"
        assert output not in ("difference", "panning") or out_channels == 2 * in_channels, (
            "a difference is that of two targets"
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.size = Size(blocks, width)
        self.output: Output = output
        self.condition_channels, self.response_frames = condition_channels, response_frames
        self.conv_in = nn.Conv1d(in_channels, width, kernel_size=1)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, condition_channels=condition_channels, response_frames=response_frames)
            for _ in range(blocks)
        )
        predicted = in_channels if output == "difference" else out_channels  # panning: gains and offsets
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
        """(B, in_channels, T), condition (B, condition_channels) where it has one -> (B, out_channels, T)"""
        hidden = self.conv_in(latents)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.completed(latents, self.conv_out(hidden), condition)

    def completed(self, latents: Tensor, predicted: Tensor, condition: Tensor | None) -> Tensor:
        """What `output` makes of the last convolution: (B, in_channels, T) and its output -> (B, out_channels, T)"""
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
