"""ConvNeXt-V2 block and global response normalisation."""

from __future__ import annotations

import torch
from torch import nn

from reencoder_trainer.layers import ConvNeXtBlock, GlobalResponseNorm


def test_response_norm_starts_as_identity() -> None:
    x = torch.randn(2, 5, 4)
    assert torch.equal(GlobalResponseNorm(4)(x), x)


def test_response_norm_follows_its_formula() -> None:
    norm = GlobalResponseNorm(3)
    nn.init.normal_(norm.gain)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 7, 3)
    energy = (x**2).sum(dim=1).sqrt()  # over time
    response = energy / (energy.mean(dim=1, keepdim=True) + 1e-6)  # relative to the mean over channels
    expected = norm.gain * x * response[:, None, :] + norm.bias + x
    torch.testing.assert_close(norm(x), expected)


def test_response_norm_of_silence_is_finite() -> None:
    norm = GlobalResponseNorm(3)
    nn.init.ones_(norm.gain)
    x = torch.zeros(1, 4, 3, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_block_keeps_the_shape_and_sees_three_frames_each_side() -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(6)
    x = torch.randn(1, 6, 31)
    changed = x.clone()
    changed[:, :, 15] += 1.0
    difference = (block(changed) - block(x)).abs().amax(dim=(0, 1))
    assert block(x).shape == x.shape
    # At the start the response norm is the identity, so the depthwise kernel of 7 alone reaches over time.
    assert (difference > 0).nonzero().flatten().tolist() == list(range(12, 19))


def test_block_is_residual() -> None:
    block = ConvNeXtBlock(6)
    nn.init.zeros_(block.project.weight)
    nn.init.zeros_(block.project.bias)
    x = torch.randn(2, 6, 9)
    assert torch.equal(block(x), x)
