"""The latent module: the paper's sizes, what it can predict and where it starts, and a stored output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.latent_module import OUTPUTS, SIZES, LatentModule, Output
from reencoder_trainer.training.losses import reconstruction_loss


def randomised(module: LatentModule, *, std: float = 0.3) -> LatentModule:
    """Away from the zeros that parts of it start at."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module.eval()


@pytest.mark.parametrize(("size", "parameters"), [("S", 4_295_232), ("M", 19_077_952)])
def test_parameter_counts_of_the_paper(size: str, parameters: int) -> None:
    with torch.device("meta"):
        module = LatentModule(64, 64, **SIZES[size]._asdict())
    assert module.num_parameters == parameters


def test_mono_to_stereo_has_the_parameters_of_the_paper() -> None:
    """Section 3.1.2: M with a two-block conditioning branch and H = 64, "amounting to 24.8 M"."""
    with torch.device("meta"):
        module = LatentModule(64, 128, **SIZES["M"]._asdict(), condition_channels=64)
        encoder = ConditionEncoder(128, 64, blocks=2, width=768)
    # M; AdaLN in place of LN in 8 blocks; and 64 channels more out.
    assert module.num_parameters == 19_077_952 + 8 * (64 * 2 * 768 - 2 * 768) + 64 * (768 + 1)
    assert module.num_parameters + encoder.num_parameters == 24_843_520
    assert round((module.num_parameters + encoder.num_parameters) / 1e6, 1) == 24.8


@pytest.mark.parametrize("output", OUTPUTS)
def test_channels_in_and_out_and_any_length(output: Output) -> None:
    module = LatentModule(4, 8, blocks=2, width=16, output=output)
    for num_frames in (1, 7, 60):
        assert module(torch.randn(3, 4, num_frames)).shape == (3, 8, num_frames)


def test_residual_starts_at_the_input_and_still_learns() -> None:
    module = LatentModule(4, 4, blocks=1, width=16, output="residual")
    x = torch.randn(2, 4, 9)
    assert torch.equal(module(x), x)
    reconstruction_loss(module(x), torch.randn(2, 4, 9)).backward()
    assert module.conv_out.weight.grad is not None
    assert module.conv_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("output", ["difference", "panning"])
def test_a_difference_starts_at_the_input_and_still_learns(output: Output) -> None:
    module = LatentModule(4, 8, blocks=1, width=16, output=output)
    x = torch.randn(2, 4, 9)
    assert torch.equal(module(x), torch.cat([x, x], dim=1))
    reconstruction_loss(module(x), torch.randn(2, 8, 9)).backward()
    assert module.conv_out.weight.grad is not None
    assert module.conv_out.weight.grad.abs().sum() > 0


def test_outputs_say_what_the_last_convolution_predicts() -> None:
    """The same weights predict the targets, what to add to a copy for each, or half of left minus right."""
    x = torch.randn(2, 4, 9)
    direct = randomised(LatentModule(4, 8, blocks=1, width=16))
    residual = randomised(LatentModule(4, 8, blocks=1, width=16, output="residual"))
    assert torch.equal(residual(x), direct(x) + torch.cat([x, x], dim=1))

    half = randomised(LatentModule(4, 4, blocks=1, width=16))
    difference = randomised(LatentModule(4, 8, blocks=1, width=16, output="difference"))
    left, right = difference(x).chunk(2, dim=1)
    assert difference.num_parameters == half.num_parameters < direct.num_parameters
    torch.testing.assert_close((left + right) / 2, x)
    torch.testing.assert_close((left - right) / 2, half(x))
    assert half(x).abs().min() > 0, "left and right differ"

    panning = randomised(LatentModule(4, 8, blocks=1, width=16, output="panning"))
    left, right = panning(x).chunk(2, dim=1)
    gain, offset = direct(x).chunk(2, dim=1)
    assert panning.num_parameters == direct.num_parameters
    torch.testing.assert_close((left + right) / 2, x)
    torch.testing.assert_close((left - right) / 2, gain * x + offset)


def test_a_condition_pans_the_whole_piece_by_channel() -> None:
    module = LatentModule(4, 8, blocks=1, width=16, output="panning", condition_channels=2)
    assert module.pan is not None
    x = torch.randn(2, 4, 9)
    condition = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    assert torch.equal(module(x, condition), torch.cat([x, x], dim=1)), "it starts at the input"
    module.pan.weight.data = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.0, 0.3], [0.0, 0.4]])
    gains = torch.tensor([[0.1, 0.2, 0.0, 0.0], [0.0, 0.0, -0.6, -0.8]])[:, :, None]
    torch.testing.assert_close(module(x, condition), torch.cat([(1 + gains) * x, (1 - gains) * x], dim=1))


def test_only_direct_starts_elsewhere() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9)
    starts = {output: LatentModule(4, 8, blocks=1, width=16, output=output)(x) for output in OUTPUTS}
    assert [output for output in OUTPUTS if torch.equal(starts[output], x.repeat(1, 2, 1))] == [
        "residual",
        "difference",
        "panning",
    ]


@pytest.mark.parametrize(
    ("out_channels", "output", "reason"),
    [
        (6, "residual", "copies of the input"),
        (6, "difference", "copies of the input"),
        (4, "difference", "two targets"),
        (12, "difference", "two targets"),
        (12, "panning", "two targets"),
        (8, "sum", "sum"),
    ],
)
def test_what_cannot_be_is_a_bug(out_channels: int, output: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        LatentModule(4, out_channels, blocks=1, width=16, output=output)  # type: ignore[arg-type]


def test_every_block_takes_the_condition_and_starts_deaf_to_it() -> None:
    torch.manual_seed(0)
    module = LatentModule(4, 8, blocks=3, width=16, condition_channels=5)
    x, one, other = torch.randn(2, 4, 9), torch.randn(2, 5), torch.randn(2, 5)
    assert torch.equal(module(x, one), module(x, other))
    projections = [p for name, p in module.named_parameters() if name.endswith("norm.project.weight")]
    assert len(projections) == 3
    for projection in projections:  # each alone is enough
        nn.init.normal_(projection)
        assert not torch.equal(module(x, one), module(x, other))
        nn.init.zeros_(projection)


@pytest.mark.parametrize("response_frames", [5, None])
def test_with_response_frames_a_piece_with_context_gives_the_frames_of_the_whole(response_frames: int | None) -> None:
    module = randomised(LatentModule(4, 4, blocks=2, width=8, response_frames=response_frames), std=1.0)
    x = torch.randn(1, 4, 60)
    reach = 2 * (3 + 2)  # two blocks: three frames of the depthwise kernel, two of the response norm, each side
    with torch.no_grad():
        whole, piece = module(x)[..., 20:30], module(x[..., 20 - reach : 30 + reach])[..., reach:-reach]
        shorter = module(x[..., 21 - reach : 29 + reach])[..., reach - 1 : 1 - reach]
    assert torch.allclose(piece, whole, atol=1e-4) is (response_frames is not None)
    assert not torch.allclose(shorter, whole, atol=1e-4), "a frame of context less is too little"


def test_output_is_what_it_was() -> None:
    """Golden: a change of the architecture would break released modules, and breaks this test first."""
    module = LatentModule(2, 2, blocks=2, width=8)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7).reshape(parameter.shape) / 2)
    output = module(torch.linspace(-1, 1, 10).reshape(1, 2, 5))
    torch.testing.assert_close(output, torch.tensor(GOLDEN), rtol=0, atol=1e-5)


GOLDEN = [[[5.236593, 5.185426, 5.150401, 5.120816, 5.06599], [6.436182, 6.358526, 6.336924, 6.332238, 6.298752]]]
