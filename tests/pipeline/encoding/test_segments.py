"""Waveform models in segments: equal to a single call wherever the context is as long as what they see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_eval.baselines.in_segments import run_in_segments

SEES = 3  # low-rate samples on either side, of Doubling


class Doubling(nn.Module):
    """(B, 1, n) -> (B, 2, 2n): a convolution at either rate. Notes how long its inputs are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.high = nn.Conv1d(1, 4, 5, padding=2), nn.Conv1d(4, 2, 3, padding=1)
        self.lengths: list[int] = []

    def forward(self, audio: Tensor) -> Tensor:
        self.lengths.append(audio.shape[-1])
        return self.high(torch.tanh(self.low(audio)).repeat_interleave(2, dim=-1))


class Framewise(nn.Module):
    """(B, 1, n) -> (B, 1, n): frames of 4 samples, each replaced by its mean; a shorter last frame counts zeros."""

    def forward(self, audio: Tensor) -> Tensor:
        padded = F.pad(audio, (0, -audio.shape[-1] % 4))
        return F.avg_pool1d(padded, 4).repeat_interleave(4, dim=-1)[..., : audio.shape[-1]]


def noise(num_samples: int, *, batch: int = 1) -> Tensor:
    return torch.randn(batch, 1, num_samples, generator=torch.Generator().manual_seed(num_samples))


@pytest.mark.parametrize("num_samples", [1, 2, 15, 16, 17, 26, 27, 99, 1000])
@pytest.mark.parametrize("context", [SEES, 8])
@torch.inference_mode()
def test_segments_equal_a_single_call(num_samples: int, context: int) -> None:
    model, audio = Doubling(), noise(num_samples, batch=2)
    output = run_in_segments(model, audio, segment=10, context=context, factor=2)
    assert output.shape == (2, 2, 2 * num_samples)
    torch.testing.assert_close(output, model(audio), atol=1e-6, rtol=0)


@torch.inference_mode()
def test_too_little_context_would_be_noticed() -> None:
    model, audio = Doubling(), noise(100)
    output = run_in_segments(model, audio, segment=10, context=SEES - 2, factor=2)
    assert (output - model(audio)).abs().max() > 1e-3


def test_every_piece_is_equally_long_and_short_audio_goes_in_one() -> None:
    model = Doubling()
    run_in_segments(model, noise(101), segment=10, context=4, factor=2)
    assert len(model.lengths) > 5
    assert set(model.lengths) == {18}
    model.lengths.clear()
    run_in_segments(model, noise(18), segment=10, context=4, factor=2)
    assert model.lengths == [18]


@pytest.mark.parametrize("num_samples", [1, 3, 5, 17, 62, 63, 64, 65, 201])
def test_pieces_start_at_the_models_frames(num_samples: int) -> None:
    model, audio = Framewise(), noise(num_samples)
    output = run_in_segments(model, audio, segment=12, context=4, factor=1, multiple=4)
    torch.testing.assert_close(output, model(audio), atol=0, rtol=0)


def test_pieces_that_start_elsewhere_would_be_noticed() -> None:
    model, audio = Framewise(), noise(201)
    assert not torch.equal(run_in_segments(model, audio, segment=13, context=4, factor=1), model(audio))
