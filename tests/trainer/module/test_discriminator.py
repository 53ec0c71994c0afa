"""The latent discriminator: the paper's kernels and widths, its frames, and what a score looks at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reencoder_trainer.module.discriminator import MIN_FRAMES, LatentDiscriminator


def small(channels: int = 6) -> LatentDiscriminator:
    torch.manual_seed(0)
    return LatentDiscriminator(channels)


def test_six_layers_of_the_paper() -> None:
    """Section 3.1.2: kernels (3, 7) five times and (3, 3), hops and padding of (1, 1), one channel in, 256 inside."""
    with torch.device("meta"):
        layers = [layer for layer in LatentDiscriminator().modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in layers] == [(3, 7)] * 5 + [(3, 3)]
    assert {(layer.stride, layer.padding, layer.dilation, layer.groups) for layer in layers} == {
        ((1, 1), (1, 1), (1, 1), 1)
    }
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == [(1, 256), *[(256, 256)] * 4, (256, 1)]


def test_parameter_count() -> None:
    first, inner, last = 256 * 1 * 3 * 7 + 256, 256 * 256 * 3 * 7 + 256, 1 * 256 * 3 * 3 + 1
    with torch.device("meta"):
        assert LatentDiscriminator().num_parameters == first + 4 * inner + last == 5_513_985


@pytest.mark.parametrize("num_frames", [MIN_FRAMES, 22, 60])
def test_every_kernel_of_seven_takes_four_frames_and_none_takes_channels(num_frames: int) -> None:
    maps = small()(torch.randn(2, 5, num_frames))
    assert [tuple(layer.shape) for layer in maps] == [
        *[(2, 6, 5, num_frames - lost) for lost in (4, 8, 12, 16, 20)],
        (2, 1, 5, num_frames - 20),
    ]


def test_a_frame_less_than_the_least_is_too_few() -> None:
    assert MIN_FRAMES == 21
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        small()(torch.randn(2, 5, MIN_FRAMES - 1))


def test_maps_follow_their_formula() -> None:
    """Convolutions over (latent channel, frame) of a one-channel image; a leaky ReLU after each but the last."""
    discriminator = small()
    for parameter in discriminator.parameters():
        nn.init.normal_(parameter, std=0.2)
    latents = torch.randn(2, 5, 30)
    x = latents.unsqueeze(1)  # (B, C, T) -> (B, 1, C, T)
    convolutions = [layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)]
    for index, (layer, found) in enumerate(zip(convolutions, discriminator(latents), strict=True)):
        x = nn.functional.conv2d(x, layer.weight, layer.bias, stride=1, padding=1)
        if index < 5:
            x = torch.where(x > 0, x, 0.1 * x)
        torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    assert x.min() < 0 < x.max(), "scores of both signs, so that a nonlinearity would show"


def test_a_score_sees_33_frames_and_13_channels() -> None:
    discriminator = small()
    latents = torch.randn(1, 16, 60)
    changed = latents.clone()
    changed[0, 7, 30] += 10.0
    with torch.no_grad():
        difference = (discriminator(changed)[-1] - discriminator(latents)[-1])[0, 0].abs()  # (C, T - 20)
    touched = difference > 0
    # Five kernels of 7 and one of 3: 3 * 5 + 1 frames and 6 channels each side; score t is centred on frame t + 10.
    assert touched.any(dim=0).nonzero().flatten().tolist() == list(range(20 - 16, 20 + 17))
    assert touched.any(dim=1).nonzero().flatten().tolist() == list(range(7 - 6, 7 + 7))


def test_items_of_a_batch_are_judged_alone() -> None:
    discriminator = small()
    latents = torch.randn(3, 5, 25)
    together = discriminator(latents)[-1]
    for item in range(3):
        torch.testing.assert_close(together[item : item + 1], discriminator(latents[item : item + 1])[-1])


def test_gradients_reach_the_latents_and_every_layer() -> None:
    discriminator = small()
    latents = torch.randn(2, 5, 25, requires_grad=True)
    (1 - discriminator(latents)[-1]).square().mean().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())
