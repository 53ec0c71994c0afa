"""The latent module: the paper's sizes, shapes, the residual start, and a stored output."""

from __future__ import annotations

import pytest
import torch

from reencoder_trainer.latent_module import SIZES, LatentModule
from reencoder_trainer.losses import reconstruction_loss


@pytest.mark.parametrize(("size", "parameters"), [("S", 4_295_232), ("M", 19_077_952)])
def test_parameter_counts_of_the_paper(size: str, parameters: int) -> None:
    with torch.device("meta"):
        module = LatentModule(64, 64, **SIZES[size]._asdict())
    assert module.num_parameters == parameters


def test_channels_in_and_out_and_any_length() -> None:
    module = LatentModule(4, 8, blocks=2, width=16)
    for num_frames in (1, 7, 60):
        assert module(torch.randn(3, 4, num_frames)).shape == (3, 8, num_frames)


def test_residual_starts_at_the_input_and_still_learns() -> None:
    module = LatentModule(4, 4, blocks=1, width=16, output="residual")
    x = torch.randn(2, 4, 9)
    assert torch.equal(module(x), x)
    reconstruction_loss(module(x), torch.randn(2, 4, 9)).backward()
    assert module.conv_out.weight.grad is not None
    assert module.conv_out.weight.grad.abs().sum() > 0


def test_output_is_what_it_was() -> None:
    """Golden: a change of the architecture would break released modules, and breaks this test first."""
    module = LatentModule(2, 2, blocks=2, width=8)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7).reshape(parameter.shape) / 2)
    output = module(torch.linspace(-1, 1, 10).reshape(1, 2, 5))
    torch.testing.assert_close(output, torch.tensor(GOLDEN), rtol=0, atol=1e-5)


GOLDEN = [[[5.236593, 5.185426, 5.150401, 5.120816, 5.06599], [6.436182, 6.358526, 6.336924, 6.332238, 6.298752]]]


def test_reconstruction_loss_is_a_mean_in_float32() -> None:
    estimate, reference = torch.zeros(2, 3, 4, dtype=torch.bfloat16), torch.full((2, 3, 4), 1.001)
    loss = reconstruction_loss(estimate, reference)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.001, abs=1e-6)
