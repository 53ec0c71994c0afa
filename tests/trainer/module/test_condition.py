"""The variational condition: G_phi starts with little noise and pools over time; noise is pure in (seed, step)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from reencoder_trainer.module.condition import START_DEVIATION, ConditionEncoder, interpolated, standard_normal
from reencoder_trainer.module.layers import ConvNeXtBlock


def learnt_encoder(*, pointwise: bool = False) -> ConditionEncoder:
    """Away from its start; `pointwise`: only the middle tap of its depthwise kernels, so that no frame sees another."""
    torch.manual_seed(0)
    encoder = ConditionEncoder(8, 3, blocks=2, width=16)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    for block in encoder.blocks if pointwise else ():
        assert isinstance(block, ConvNeXtBlock)
        middle = torch.zeros(7)
        middle[3] = 1.0
        block.depthwise.weight.data *= middle
    return encoder


def test_the_posterior_starts_with_little_noise_and_tells_items_apart() -> None:
    torch.manual_seed(0)
    posterior = ConditionEncoder(8, 3, blocks=2, width=16)(torch.randn(5, 8, 30))
    assert posterior.log_variance.unique().tolist() == pytest.approx([2 * math.log(START_DEVIATION)])
    assert posterior.mean.std(dim=0).min() > START_DEVIATION


def test_with_levels_it_hears_from_the_start_which_side_is_louder() -> None:
    """Of pieces that differ in everything else much more."""
    generator = torch.Generator().manual_seed(1)
    loudness, balance = (
        2 * torch.rand(200, 1, 1, generator=generator) + 0.2,
        0.1 * torch.randn(200, generator=generator),
    )
    mid = loudness * torch.randn(200, 16, 40, generator=generator)
    targets = torch.cat([(1 + balance[:, None, None]) * mid, (1 - balance[:, None, None]) * mid], dim=1)
    heard = {}
    for levels in (False, True):
        torch.manual_seed(0)
        means = ConditionEncoder(32, 3, blocks=2, width=16, levels=levels)(targets).mean
        pairs = (torch.stack([mean, balance]) for mean in means.T)
        heard[levels] = max(torch.corrcoef(pair)[0, 1].abs().item() for pair in pairs)
    assert heard[True] > 0.7
    assert heard[False] < 0.35, heard


def test_it_learns_from_its_start() -> None:
    encoder = ConditionEncoder(8, 3, blocks=2, width=16)
    (encoder(torch.randn(5, 8, 30)).sample(torch.randn(5, 3)) - 1).square().mean().backward()
    assert encoder.head.weight.grad is not None
    assert (encoder.head.weight.grad.abs().sum(dim=1) > 0).all(), "mean and log variance"


@pytest.mark.parametrize("num_frames", [1, 5, 172])
def test_one_condition_for_a_piece_of_any_length(num_frames: int) -> None:
    posterior = learnt_encoder()(torch.randn(4, 8, num_frames))
    assert posterior.mean.shape == posterior.log_variance.shape == (4, 3)
    assert not torch.equal(posterior.mean[0], posterior.mean[1])


def test_the_posterior_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = learnt_encoder()(torch.randn(4, 8, 10))
    assert posterior.mean.dtype == posterior.log_variance.dtype == torch.float32


def test_the_head_gives_the_mean_first() -> None:
    encoder = learnt_encoder()
    nn.init.zeros_(encoder.head.weight)
    encoder.head.bias.data = torch.arange(6.0)
    posterior = encoder(torch.randn(1, 8, 10))
    assert (posterior.mean.tolist(), posterior.log_variance.tolist()) == ([[0.0, 1.0, 2.0]], [[3.0, 4.0, 5.0]])


def test_frames_are_pooled_by_their_mean() -> None:
    encoder, targets = learnt_encoder(), torch.randn(2, 8, 30)
    for block in encoder.blocks:  # residual: now they do nothing, and what is left is affine
        assert isinstance(block, ConvNeXtBlock)
        nn.init.zeros_(block.project.weight)
        nn.init.zeros_(block.project.bias)
    for one, other in zip(encoder(targets), encoder(targets.mean(dim=2, keepdim=True)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_order_of_frames_is_heard_by_the_blocks_alone() -> None:
    encoder, targets = learnt_encoder(pointwise=True), torch.randn(2, 8, 30)
    shuffled = targets[..., torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    for one, other in zip(encoder(targets), encoder(shuffled), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(learnt_encoder()(targets).mean, learnt_encoder()(shuffled).mean, rtol=1e-2)


def test_a_longer_piece_of_the_same_has_the_same_posterior() -> None:
    """A sum over time, or a response norm that grows with it, would not pass."""
    encoder, frame = learnt_encoder(pointwise=True), torch.randn(2, 8, 1)
    for one, other in zip(encoder(frame.expand(-1, -1, 20)), encoder(frame.expand(-1, -1, 172)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_num_parameters() -> None:
    block = 16 * 7 + 16 + 2 * 16 + 16 * 32 + 32 + 2 * 32 + 32 * 16 + 16
    assert ConditionEncoder(8, 3, blocks=2, width=16).num_parameters == 8 * 16 + 16 + 2 * block + 16 * 6 + 6


def test_noise_is_a_function_of_seed_and_step_and_touches_no_other_randomness() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    noise = standard_normal(6, 4, seed=5, step=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    standard_normal(3, 4, seed=5, step=8)
    assert torch.equal(standard_normal(6, 4, seed=5, step=7), noise)
    assert (noise.shape, noise.dtype, noise.device.type) == ((6, 4), torch.float32, "cpu")


def test_noise_differs_between_seeds_and_steps() -> None:
    places = [(seed, step) for seed in (0, 1, 2, 2**63 - 1) for step in (0, 1, 2, 249_999)]
    drawn = {tuple(standard_normal(2, 4, seed=seed, step=step).flatten().tolist()) for seed, step in places}
    assert len(drawn) == len(places), "(1, 2) is not (2, 1), and none is another"


def test_noise_is_standard_normal() -> None:
    noise = standard_normal(4096, 8, seed=0, step=0)
    # The deviation of a mean of 4,096 is 0.016, that of a deviation 0.011, that of a correlation 0.016.
    assert noise.mean(dim=0).abs().max() < 0.06
    assert (noise.std(dim=0) - 1).abs().max() < 0.05
    assert (torch.corrcoef(noise.T) - torch.eye(8)).abs().max() < 0.07
    assert (noise.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.01)


def test_noise_of_neighbouring_steps_is_unrelated() -> None:
    one, other = (standard_normal(4096, 8, seed=0, step=step).flatten() for step in (0, 1))
    assert (one * other).mean().abs() < 0.03  # 0.0055 is its deviation


def test_interpolation_ends_at_the_prior_and_at_the_oracle() -> None:
    oracle, prior = torch.tensor([[1.0, 2.0]]), torch.tensor([[-3.0, 4.0]])
    assert torch.equal(interpolated(oracle, prior, share=1), oracle)
    assert torch.equal(interpolated(oracle, prior, share=0), prior)
    assert interpolated(oracle, prior, share=0.25).tolist() == [[-2.0, 3.5]]  # a quarter of the way to the oracle
