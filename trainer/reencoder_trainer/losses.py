"""The paper's losses, on normalised latents, in float32."""

from __future__ import annotations

from torch import Tensor


def reconstruction_loss(estimate: Tensor, reference: Tensor) -> Tensor:
    """Equation 1: the L1 distance of two latents (B, C, T), as a scalar.

    It is the mean over batch, channels and frames, not their sum, so that the value does not depend on the window's
    length or the number of channels: 0 is perfect, and 0.8 is what predicting the mean of a Gaussian channel costs.
    """
    return (estimate.float() - reference.float()).abs().mean()
