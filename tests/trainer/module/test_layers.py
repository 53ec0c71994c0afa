"""ConvNeXt-V2 block, global response normalisation over a piece or around each frame, and adaptive layer norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reencoder_trainer.module.layers import AdaptiveLayerNorm, ConvNeXtBlock, GlobalResponseNorm


def response_norm(channels: int, *, frames: int | None = None) -> GlobalResponseNorm:
    """Away from its start, where it is the identity."""
    norm = GlobalResponseNorm(channels, frames=frames)
    nn.init.normal_(norm.gain)
    nn.init.normal_(norm.bias)
    return norm


def frame_by_frame(norm: GlobalResponseNorm, x: Tensor, *, frames: int) -> Tensor:
    """(B, T, C) -> (B, T, C): the root mean square of the frames that there are, at most `frames` around each."""
    expected = torch.empty_like(x)
    for item in range(len(x)):
        for frame in range(x.shape[1]):
            around = x[item, max(0, frame - frames // 2) : frame + frames // 2 + 1]
            energy = [sum(value**2 for value in channel) / len(around) for channel in around.T.tolist()]
            root = torch.tensor(energy).sqrt()
            response = root / (root.mean() + 1e-6)
            expected[item, frame] = x[item, frame] * (1 + norm.gain * response) + norm.bias
    return expected


@pytest.mark.parametrize("frames", [None, 1, 5])
def test_response_norm_starts_as_identity(frames: int | None) -> None:
    x = torch.randn(2, 5, 4)
    assert torch.equal(GlobalResponseNorm(4, frames=frames)(x), x)


def test_response_norm_follows_its_formula() -> None:
    norm = response_norm(3)
    x = torch.randn(2, 7, 3)
    energy = (x**2).sum(dim=1).sqrt()  # over time
    response = energy / (energy.mean(dim=1, keepdim=True) + 1e-6)  # relative to the mean over channels
    expected = norm.gain * x * response[:, None, :] + norm.bias + x
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("num_frames", [1, 2, 4, 9])  # shorter than the window, too
def test_response_norm_around_a_frame_follows_its_formula(frames: int, num_frames: int) -> None:
    norm, x = response_norm(3, frames=frames), torch.randn(2, num_frames, 3)
    torch.testing.assert_close(norm(x), frame_by_frame(norm, x, frames=frames))


@pytest.mark.parametrize(("frames", "touched"), [(1, range(20, 21)), (5, range(18, 23)), (None, range(41))])
def test_response_norm_looks_as_far_as_it_says(frames: int | None, touched: range) -> None:
    norm, x = response_norm(3, frames=frames), torch.randn(1, 41, 3)
    changed = x.clone()
    changed[0, 20] *= torch.tensor([1.0, 3.0, -7.0])
    difference = (norm(changed) - norm(x)).abs().amax(dim=(0, 2))
    assert (difference > 0).nonzero().flatten().tolist() == list(touched)


def test_a_piece_with_context_gives_the_frames_of_the_whole() -> None:
    x = torch.randn(2, 40, 3)
    for frames, is_same in ((5, True), (None, False)):
        norm = response_norm(3, frames=frames)
        assert torch.equal(norm(x[:, 8:22])[:, 2:-2], norm(x)[:, 10:20]) is is_same


def test_response_norm_wants_a_window_with_a_middle() -> None:
    with pytest.raises(AssertionError, match="odd"):
        GlobalResponseNorm(3, frames=4)


@pytest.mark.parametrize("frames", [None, 1, 5])
def test_response_norm_of_silence_is_finite(frames: int | None) -> None:
    norm = GlobalResponseNorm(3, frames=frames)
    nn.init.ones_(norm.gain)
    x = torch.zeros(1, 4, 3, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("frames", [None, 5])
def test_response_norm_of_bfloat16_measures_in_float32(frames: int | None) -> None:
    """Powers of two are exact in bfloat16, as are products with them: only the response itself is rounded, and once."""
    torch.manual_seed(0)
    norm = GlobalResponseNorm(64, frames=frames)
    nn.init.ones_(norm.gain)
    x = (torch.randn(1, 200, 64).sign() * 2.0 ** torch.randint(-3, 4, (1, 200, 64))).bfloat16()
    response, true_response = (norm(y) / y.float() - 1 for y in (x, x.float()))
    assert ((response - true_response) / true_response).abs().max() < 1.01 * 2**-8
    assert norm.bfloat16()(x).dtype == torch.bfloat16


def test_adaptive_norm_starts_as_a_plain_layer_norm() -> None:
    x = torch.randn(2, 5, 4) * 3 + 1
    assert torch.equal(AdaptiveLayerNorm(4, 3)(x, torch.randn(2, 3)), nn.functional.layer_norm(x, (4,), eps=1e-6))


def test_adaptive_norm_follows_its_formula() -> None:
    norm = AdaptiveLayerNorm(4, 3)
    nn.init.normal_(norm.project.weight)
    x, condition = torch.randn(2, 5, 4) * 3 + 1, torch.randn(2, 3)
    output = norm(x, condition)
    for item in range(2):
        scale, shift = norm.project.weight[:4] @ condition[item], norm.project.weight[4:] @ condition[item]
        for frame in range(5):
            centred = x[item, frame] - x[item, frame].mean()
            expected = centred / (centred.square().mean() + 1e-6).sqrt() * (1 + scale) + shift
            torch.testing.assert_close(output[item, frame], expected, rtol=1e-4, atol=1e-5)
    # The prior's mean is a condition like any other, and the plain norm.
    assert torch.equal(norm(x, torch.zeros(2, 3)), nn.functional.layer_norm(x, (4,), eps=1e-6))


def test_adaptive_norm_has_no_other_parameters_and_learns_from_its_start() -> None:
    norm = AdaptiveLayerNorm(4, 3)
    assert {name: tuple(p.shape) for name, p in norm.named_parameters()} == {"project.weight": (8, 3)}
    norm(torch.randn(2, 5, 4), torch.randn(2, 3)).square().sum().backward()
    assert norm.project.weight.grad is not None
    assert (norm.project.weight.grad.abs().sum(dim=1) > 0).all()


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


@pytest.mark.parametrize(("frames", "reach"), [(1, 3), (5, 3 + 2), (None, 15)])
def test_block_sees_what_its_response_norm_sees(frames: int | None, reach: int) -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(6, response_frames=frames)
    nn.init.normal_(block.response_norm.gain)
    x = torch.randn(1, 6, 31)
    changed = x.clone()
    changed[:, :, 15] += 10.0
    difference = (block(changed) - block(x)).abs().amax(dim=(0, 1))
    assert (difference > 0).nonzero().flatten().tolist() == list(range(15 - reach, 15 + reach + 1))


def test_block_is_residual() -> None:
    block = ConvNeXtBlock(6)
    nn.init.zeros_(block.project.weight)
    nn.init.zeros_(block.project.bias)
    x = torch.randn(2, 6, 9)
    assert torch.equal(block(x), x)


def test_a_conditioned_block_starts_as_one_without_and_then_listens() -> None:
    torch.manual_seed(0)
    plain, conditioned = ConvNeXtBlock(6), ConvNeXtBlock(6, condition_channels=3)
    missing = conditioned.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["norm.project.weight"]
    x, condition = torch.randn(2, 6, 9), torch.randn(2, 3)
    torch.testing.assert_close(conditioned(x, condition), plain(x))
    assert isinstance(conditioned.norm, AdaptiveLayerNorm)
    nn.init.normal_(conditioned.norm.project.weight)
    changed = condition.clone()
    changed[1] += 1.0
    difference = (conditioned(x, changed) - conditioned(x, condition)).abs().amax(dim=1)  # (B, T)
    assert (difference[0] == 0).all(), "an item listens to its own condition"
    assert (difference[1] > 0).all(), "in all its frames"
