"""The paper's losses, equations 1 to 5, and one of ours, on normalised latents, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reencoder_trainer.module.condition import Posterior
from reencoder_trainer.module.layers import level

LEVEL_FRAMES = (16, 64)  # at 43 latents a second: 0.4 and 1.5 s; levels of fewer frames are mostly chance


def reconstruction_loss(estimate: Tensor, reference: Tensor) -> Tensor:
    """Equation 1: the L1 distance of two latents (B, C, T), as a scalar.

    It is the mean over batch, channels and frames, not their sum, so that the value does not depend on the window's
    length or the number of channels: 0 is perfect, and 0.8 is what predicting the mean of a Gaussian channel costs.
    """
    return (estimate.float() - reference.float()).abs().mean()


def adversarial_loss(estimate_scores: Tensor) -> Tensor:
    """Equation 2, of the module: scores of its estimates should be 1. Mean over all scores."""
    return (1.0 - estimate_scores.float()).square().mean()


def feature_matching_loss(
    estimate_maps: Sequence[Tensor], reference_maps: Sequence[Tensor], *, through_denominator: bool
) -> Tensor:
    """Equation 3: the sum over D's layers of |D_i(target) - D_i(estimate)|_1 / |D_i(estimate)|_1.

    The norms are those of an item of the batch, and the ratio is averaged over items, as the expectation asks for. The
    paper divides by the estimate's norm, so a module could lower the loss by raising D's response alone;
    `through_denominator` says whether it may (the equation as it stands) or the divisor counts as a constant.
    """
    ratios = []
    for estimate, reference in zip(estimate_maps, reference_maps, strict=True):
        items = tuple(range(1, estimate.dim()))
        estimate, reference = estimate.float(), reference.detach().float()
        size = estimate.abs().mean(dim=items)
        distance = (reference - estimate).abs().mean(dim=items)
        ratios.append((distance / (size if through_denominator else size.detach()).clamp(min=1e-6)).mean())
    return torch.stack(ratios).sum()


def discriminator_loss(reference_scores: Tensor, estimate_scores: Tensor) -> Tensor:
    """Equation 4: scores of targets should be 1, those of estimates 0. A D that sees no difference gets 0.5."""
    return (1.0 - reference_scores.float()).square().mean() + estimate_scores.float().square().mean()


def kl_divergence(posterior: Posterior) -> Tensor:
    """KL of the posterior of equation 5 to the standard normal: nats summed over H, averaged over the batch."""
    mean, log_variance = posterior.mean.float(), posterior.log_variance.float()
    # expm1: near the prior, exp - 1 would leave the rounding of numbers around 1.
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(dim=1).mean()


def level_loss(estimate: Tensor, reference: Tensor, *, streams: int) -> Tensor:
    """Not in the paper: how far the levels of two latents (B, streams * C, T) are apart, in nepers, as a scalar.

    A level is the root mean square of one channel over all frames, and over a few (LEVEL_FRAMES, halves of them
    overlap). An L1 alone is least at zero where the sign cannot be known; this loss wants the right level, with either
    sign. For two streams half their difference counts as a third: the levels of left, right and side together say how
    alike left and right are. The distance of the balances is added: level of left less level of right over all frames,
    averaged over channels, because a single channel scatters more than left and right commonly differ.
    """
    estimates, references = (with_side(latents.float(), streams) for latents in (estimate, reference))
    frames = estimates.shape[-1]
    distances = []
    for length in sorted({*(length for length in LEVEL_FRAMES if length < frames), frames}):
        levels = [level(latents, frames=length) for latents in (estimates, references)]
        distances.append((levels[0] - levels[1]).abs().mean())
    loss = torch.stack(distances).mean()
    if streams != 2:
        return loss
    balances = [_balance(whole) for whole in levels]  # the last length is that of all frames
    return loss + (balances[0] - balances[1]).abs().mean()


def _balance(levels: Tensor) -> Tensor:
    """Levels (B, 3 * C, 1) of left, right and side -> (B,)"""
    left, right, _ = levels.squeeze(2).chunk(3, dim=1)
    return (left - right).mean(dim=1)


def with_side(streams_of: Tensor, streams: int) -> Tensor:
    """(B, streams * C, T) -> (B, streams * C, T), or (B, 3 * C, T) of left, right and half of left minus right."""
    if streams != 2:
        return streams_of
    left, right = streams_of.chunk(2, dim=1)
    return torch.cat([streams_of, 0.5 * (left - right)], dim=1)
