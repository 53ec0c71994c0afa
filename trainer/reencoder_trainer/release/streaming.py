"""Runs a module on latents that arrive chunk by chunk; each layer keeps the few frames it still needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.layers import TINY, ConvNeXtBlock
from reencoder_trainer.trained_module import TrainedModule

FEW = 8  # frames; up to so many, a depthwise convolution by multiplication takes 1/4 to 2/3 of conv1d's time


class ModuleStream:
    """Chunks of raw latents (B, C_in, t), any t -> raw float32 (B, C_out, t') of the frames that are complete so far.

    After `last=True` the outputs together equal a call of the module on the whole piece: each layer is padded with
    zeros at both ends of the piece and sees real frames everywhere else. Only a module without `response_frames`
    differs: its GRN looks at the whole piece, here at all frames so far. `condition` is (B, H) if the module takes one.
    Use one instance per piece.
    """

    def __init__(self, trained: TrainedModule, condition: Tensor | None = None) -> None:
        self._trained, self._condition = trained, condition
        self._blocks = [_BlockStream(block) for block in _blocks(trained.module)]
        self._waiting: Tensor | None = None  # normalised input frames whose output is not complete

    @torch.no_grad()
    def __call__(self, latents: Tensor, *, last: bool = False) -> Tensor:
        module, normalisation = self._trained.module, self._trained.normalisation
        normalised = normalisation.inputs.apply(latents)
        waiting = normalised if self._waiting is None else torch.cat([self._waiting, normalised], dim=2)
        hidden = module.conv_in(normalised) if normalised.shape[2] else normalised.new_zeros(
            len(normalised), module.size.width, 0
        )  # fmt: skip
        for block in self._blocks:
            hidden = block(hidden, self._condition, last=last)
        ready = hidden.shape[2]
        self._waiting = waiting[:, :, ready:]
        if not ready:
            return normalised.new_zeros(len(normalised), module.out_channels, 0)
        estimate = module.completed(waiting[:, :, :ready], module.conv_out(hidden), self._condition)
        return normalisation.targets.undo(estimate)


class _BlockStream:
    """A ConvNeXtBlock that holds frames back until all their neighbours have arrived."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        self._block = block
        self._reach = block.depthwise.kernel_size[0] // 2
        self._around = (block.response_norm.frames or 1) // 2
        self._inputs: Tensor | None = None  # (B, C, up to 2 * reach) of the convolution
        self._hidden: Tensor | None = None  # (B, up to 2 * around, 2 C) of the response norm
        self._residual: Tensor | None = None  # (B, C, up to around), waiting for the block's output
        self._energy: Tensor | None = None  # (B, 1, 2 C) float64, the sum over all frames so far

    def __call__(self, x: Tensor, condition: Tensor | None, *, last: bool) -> Tensor:
        """(B, C, t) -> (B, C, t')"""
        if self._inputs is None:
            self._inputs = x.new_zeros(len(x), x.shape[1], self._reach)
        x = torch.cat([self._inputs, x], dim=2)
        x = F.pad(x, (0, self._reach if last else 0))
        ready = max(0, x.shape[2] - 2 * self._reach)
        self._inputs = x[:, :, ready:]
        if ready == 0 and not last:
            return x[:, :, :0]
        block, residual = self._block, x[:, :, self._reach : self._reach + ready]
        y = _depthwise(x, block.depthwise)
        y = block.norm(y) if condition is None else block.norm(y, condition)
        y = block.activation(block.expand(y))
        y, norm, residual = self._normed(y, residual, last=last)
        if y.shape[1] == 0:
            return residual
        y = block.project(block.response_norm.scaled(y, norm))
        return residual + y.transpose(1, 2)  # (B, T, C) -> (B, C, T)

    def _normed(self, y: Tensor, residual: Tensor, *, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(B, t, 2 C) and (B, C, t) -> the frames that are ready, the norm around each, and their residual."""
        frames = self._block.response_norm.frames
        if frames is None:
            energy = y.double().square().cumsum(dim=1)
            energy = energy if self._energy is None else energy + self._energy
            self._energy = energy[:, -1:] if y.shape[1] else self._energy
            return y, (energy + TINY).sqrt().float(), residual
        if frames == 1:
            return y, y.float().abs(), residual
        around = self._around
        if self._hidden is None or self._residual is None:
            self._hidden = y.new_zeros(len(y), around, y.shape[2])
            self._residual = residual[:, :, :0]
        y = torch.cat([self._hidden, y], dim=1)
        y = F.pad(y, (0, 0, 0, around if last else 0))
        residual = torch.cat([self._residual, residual], dim=2)
        ready = max(0, y.shape[1] - 2 * around)
        self._hidden, self._residual = y[:, ready:], residual[:, :, ready:]
        if ready == 0:
            return y[:, :0], y[:, :0], residual[:, :, :0]
        energy = F.avg_pool1d(y.float().square().transpose(1, 2), frames, stride=1)  # (B, T, C) -> (B, C, T)
        norm = (energy + TINY).sqrt().transpose(1, 2)  # (B, C, T) -> (B, T, C)
        return y[:, around : around + ready], norm, residual[:, :, :ready]


def latency_frames(module: LatentModule) -> int:
    """The number of frames that must follow a frame before its output is complete."""
    around = (module.response_frames or 1) // 2
    return sum(block.depthwise.kernel_size[0] // 2 + around for block in _blocks(module))


def _blocks(module: LatentModule) -> list[ConvNeXtBlock]:
    return [block for block in module.blocks if isinstance(block, ConvNeXtBlock)]


def _depthwise(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """(B, C, t + kernel - 1) -> (B, t, C), without padding."""
    size, (kernel,) = x.shape[2], convolution.kernel_size
    if size < kernel:
        return x.new_zeros(len(x), 0, x.shape[1])
    if size - kernel + 1 > FEW:
        y = F.conv1d(x, convolution.weight, convolution.bias, groups=convolution.groups)
        return y.transpose(1, 2)  # (B, C, T) -> (B, T, C)
    assert convolution.bias is not None
    pieces = x.unfold(2, kernel, 1)  # (B, C, t, kernel)
    return (pieces * convolution.weight).sum(dim=3).transpose(1, 2) + convolution.bias  # (B, C, T) -> (B, T, C)
