"""Equations 1 to 5 of the paper, with answers worked out by hand; the condition's KL; the level loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as known_kl

from reencoder_trainer.module.condition import Posterior
from reencoder_trainer.training.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    kl_divergence,
    level_loss,
    reconstruction_loss,
)


def maps(*items: list[float]) -> Tensor:
    """One layer's maps (B, 1, 1, T) of a batch, an item a list."""
    return torch.tensor(items)[:, None, None]


def matching(estimate: Tensor, reference: Tensor, *, through_denominator: bool = False) -> Tensor:
    return feature_matching_loss([estimate], [reference], through_denominator=through_denominator)


def test_equation_1_is_the_mean_absolute_difference() -> None:
    estimate, reference = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]]), torch.tensor([[[0.0, 2.0], [5.0, 1.0]]])
    assert reconstruction_loss(estimate, reference).item() == 1.25  # (1 + 0 + 2 + 2) / 4
    longer, more = (latents.repeat(3, 2, 5) for latents in (estimate, reference))
    assert reconstruction_loss(longer, more).item() == 1.25  # whatever the batch, the channels and the frames


def test_equation_1_of_a_channel_mean_is_what_its_docstring_says() -> None:
    reference = torch.randn(1, 8, 20_000, generator=torch.Generator().manual_seed(0))
    assert reconstruction_loss(torch.zeros_like(reference), reference).item() == pytest.approx(0.8, abs=0.01)


def test_equation_2_asks_for_scores_of_one() -> None:
    # ((1 - 0)^2 + (1 - 1)^2 + (1 - 0.5)^2 + (1 - 3)^2) / 4
    assert adversarial_loss(maps([0.0, 1.0], [0.5, 3.0])).item() == 5.25 / 4
    assert adversarial_loss(torch.ones(2, 1, 4, 3)).item() == 0


@pytest.mark.parametrize("through_denominator", [False, True])
def test_equation_3_is_a_sum_over_layers_of_ratios_averaged_over_items(through_denominator: bool) -> None:
    estimates = [maps([1.0, -3.0], [4.0, 4.0]), maps([4.0], [-2.0])]
    references = [maps([2.0, -1.0], [0.0, 4.0]), maps([3.0], [2.0])]
    first = (3 / 4 + 4 / 8) / 2  # |2 - 1| + |-1 + 3| over |1| + |-3|; |0 - 4| + |4 - 4| over |4| + |4|
    second = (1 / 4 + 4 / 2) / 2
    loss = feature_matching_loss(estimates, references, through_denominator=through_denominator)
    assert loss.item() == first + second == 1.75
    assert first != (3 + 4) / (4 + 8)  # one norm over the batch would let a loud item drown a quiet one


@pytest.mark.parametrize(
    # x = (2, -1), r = (3, 1): N = |r - x| = 3, S = |x| = 3, dN/dx = sign(x - r) = (-1, -1), dS/dx = sign(x) = (1, -1)
    ("through_denominator", "gradient"),
    [(False, [-1 / 3, -1 / 3]), (True, [-1 / 3 - 3 / 9, -1 / 3 + 3 / 9])],
)
def test_equation_3_passes_gradients_through_its_divisor_only_if_told_to(
    through_denominator: bool, gradient: list[float]
) -> None:
    x, r = maps([2.0, -1.0]).requires_grad_(), maps([3.0, 1.0]).requires_grad_()
    loss = matching(x, r, through_denominator=through_denominator)
    loss.backward()
    assert loss.item() == 1
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx(gradient, abs=1e-6)
    assert r.grad is None, "the target's maps teach nobody"


def test_equation_3_as_it_stands_falls_when_the_response_alone_grows() -> None:
    """Finite difference along x -> (1 + e) x, where |r - x| cannot fall: the reason for the other form."""
    x, r, e = maps([2.0, 1.0]), maps([1.0, -1.0]), 1e-3
    slope = (matching(x * (1 + e), r) - matching(x * (1 - e), r)).item() / (2 * e)
    for through_denominator, expected in ((True, slope), (False, 1.0)):
        scale = torch.ones((), requires_grad=True)
        matching(x * scale, r, through_denominator=through_denominator).backward()
        assert scale.grad is not None
        # N = |r - s x| = 3 s at s = 1; N / S = (3 s) / (3 s) is flat, with S held it rises by one.
        assert scale.grad.item() == pytest.approx(expected, abs=1e-3)
    assert slope == pytest.approx(0, abs=1e-3)


def test_equation_3_survives_a_map_that_is_zero() -> None:
    x = maps([0.0, 0.0]).requires_grad_()
    loss = matching(x, maps([1.0, 1.0]), through_denominator=True)
    loss.backward()
    assert x.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_equation_3_wants_as_many_layers_of_both() -> None:
    with pytest.raises(ValueError, match="shorter"):
        feature_matching_loss([maps([1.0])] * 2, [maps([1.0])], through_denominator=False)


def test_equation_4_of_targets_and_estimates() -> None:
    # targets: ((1 - 1)^2 + (1 - 0)^2) / 2; estimates: (1^2 + 0.5^2) / 2
    assert discriminator_loss(maps([1.0, 0.0]), maps([1.0, 0.5])).item() == 0.5 + 0.625
    assert discriminator_loss(maps([1.0]), maps([0.0])).item() == 0
    assert discriminator_loss(maps([0.0]), maps([1.0])).item() == 2


def test_equation_4_of_a_discriminator_that_sees_no_difference_is_a_half_at_best() -> None:
    losses = {score: discriminator_loss(maps([score]), maps([score])).item() for score in (0.25, 0.5, 0.75)}
    assert losses == {0.25: 0.625, 0.5: 0.5, 0.75: 0.625}


def test_equation_5_scales_the_noise_by_the_deviation() -> None:
    mean = torch.tensor([[1.0, -1.0]], requires_grad=True)
    log_variance = torch.tensor([[0.0, math.log(4)]], requires_grad=True)
    sample = Posterior(mean, log_variance).sample(torch.tensor([[2.0, 0.5]]))
    assert sample.tolist() == [[3.0, pytest.approx(0.0, abs=1e-6)]]  # 1 + 1 * 2, -1 + 2 * 0.5
    sample.sum().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert mean.grad.tolist() == [[1.0, 1.0]]
    assert log_variance.grad.tolist()[0] == pytest.approx([1.0, 0.5])  # noise * sigma / 2: reparameterised


def test_kl_by_hand() -> None:
    assert kl_divergence(Posterior(torch.zeros(2, 3), torch.zeros(2, 3))).item() == 0
    # Half a nat for a mean one deviation away; summed over H = 3, averaged over a batch where the other item has none.
    assert kl_divergence(Posterior(torch.tensor([[1.0] * 3, [0.0] * 3]), torch.zeros(2, 3))).item() == 0.75


def test_kl_of_gaussians_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 7, generator=generator).unbind()
    known = known_kl(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(kl_divergence(Posterior(mean, log_variance)), known)


def test_a_level_loss_counts_nepers_and_no_signs() -> None:
    reference = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(0)) + 3
    assert level_loss(reference, -reference, streams=1).item() == 0
    assert level_loss(math.e * reference, reference, streams=1).item() == pytest.approx(1, abs=1e-3)
    assert level_loss(reference[..., :2], reference[..., :2], streams=1).item() == 0  # shorter than any of its lengths


@pytest.mark.parametrize(("gain", "is_as_wide"), [(0.5, True), (-0.5, True), (0.0, False), (2.0, False)])
def test_a_level_loss_of_two_streams_asks_for_their_width(gain: float, is_as_wide: bool) -> None:
    """Mid and side without correlation: either sign of the side is as good, none and too much are not."""
    mid, side = torch.ones(1, 1, 64), torch.tensor([1.0, -1.0]).repeat(32)[None, None]
    stereo = [torch.cat([mid + g * side, mid - g * side], dim=1) for g in (0.5, gain)]
    loss = level_loss(stereo[1], stereo[0], streams=2).item()
    assert (loss < 1e-6) == is_as_wide


def test_a_level_loss_of_two_streams_asks_for_their_balance_and_its_sign() -> None:
    left = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(3)) + 2
    louder = torch.cat([1.2 * left, left], dim=1)
    assert level_loss(louder, louder, streams=2).item() == 0
    exchanged = torch.cat([left, 1.2 * left], dim=1)  # the side is as loud
    # 2 of 3 levels, left's and right's, are log 1.2 off, and the balance by twice that
    assert level_loss(exchanged, louder, streams=2).item() == pytest.approx((2 / 3 + 2) * math.log(1.2), rel=1e-3)


def test_a_level_loss_teaches_a_side_that_is_almost_not_there_to_grow() -> None:
    generator = torch.Generator().manual_seed(0)
    mid, side, small = (torch.randn(1, 4, 64, generator=generator) for _ in range(3))
    small = (1e-3 * small).requires_grad_()
    target = torch.cat([mid + 0.3 * side, mid - 0.3 * side], dim=1)
    level_loss(torch.cat([mid + small, mid - small], dim=1), target, streams=2).backward()
    assert small.grad is not None
    assert (small.grad * small.detach()).sum().item() < 0  # a step against the gradient makes it larger


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "equation 1": reconstruction_loss,
    "equation 2": lambda estimate, _: adversarial_loss(estimate),
    "equation 3": matching,
    "equation 4": discriminator_loss,
    "level": lambda estimate, reference: level_loss(estimate[:, None], reference[:, None], streams=1),
    "kl": lambda mean, log_variance: kl_divergence(Posterior(mean, log_variance)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_bfloat16_are_computed_in_float32(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 96, generator=generator).bfloat16() for _ in range(2))
    loss = LOSSES[name](one, other)
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    assert loss.item() == LOSSES[name](one.float(), other.float()).item()
    assert loss.item() != loss.bfloat16().item(), "a value that bfloat16 could not hold"
