"""Streaming: any chunks give what one call gives; when frames come out; and what an ordinary GRN makes of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reencoder_pipeline.errors import CheckpointError
from reencoder_trainer.module.latent_module import OUTPUTS, LatentModule, Output
from reencoder_trainer.reencoder import LatentStream, ReEncoder
from reencoder_trainer.release.streaming import FEW
from trained_modules import make_trained


@cache
def two_blocks(frames: int, output: Output) -> ReEncoder:
    """Mono to stereo, and it listens to its condition."""
    trained = make_trained(3)
    module = LatentModule(4, 8, blocks=2, width=8, output=output, condition_channels=3, response_frames=frames)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return ReEncoder(replace(trained, module=module.eval()))


def piece(num_frames: int, *, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(batch, 4, num_frames, generator=generator) * 5 + 2


def streamed(stream: LatentStream, latents: Tensor, sizes: list[int]) -> Tensor:
    return torch.cat([*(stream(chunk) for chunk in latents.split(sizes, dim=-1)), stream.flush()], dim=-1)


@st.composite
def chunkings(draw: st.DrawFn) -> list[int]:
    sizes = draw(st.lists(st.integers(0, 2 * FEW), min_size=1, max_size=12))
    return sizes if sum(sizes) else [*sizes, 1]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("frames", [1, 5])
@settings(max_examples=20)
@given(sizes=chunkings())
def test_chunks_of_any_length_give_what_one_call_gives(frames: int, output: Output, sizes: list[int]) -> None:
    reencoder = two_blocks(frames, output)
    latents = piece(sum(sizes))
    whole = reencoder(latents, seed=4)
    # float32 keeps 1.2e-7 of a sum of large terms, of which little may be left: the scale is the largest value's.
    with reencoder.streaming(seed=4) as stream:
        torch.testing.assert_close(
            streamed(stream, latents, sizes), whole, atol=1e-6 * float(whole.abs().max()), rtol=0
        )


@pytest.mark.parametrize(("frames", "latency"), [(1, 6), (5, 10)])
def test_a_frame_comes_out_when_its_latency_has_passed_and_not_before(frames: int, latency: int) -> None:
    reencoder = two_blocks(frames, "direct")
    latents = piece(30, batch=1)
    with reencoder.streaming() as stream:
        assert stream.latency_frames == latency
        assert stream.latency_seconds == pytest.approx(latency * 1024 / 44100)
        counts = [stream(chunk).shape[-1] for chunk in latents.split(1, dim=-1)]
        assert counts == [0] * latency + [1] * (30 - latency)
        assert stream.flush().shape == (1, 8, latency)
    # The latency is needed: what comes `latency` frames later still changes a frame; what comes after that does not.
    reference = reencoder(latents)
    for later, changes in ((latency, True), (latency + 1, False)):
        changed = latents.clone()
        changed[..., 15 + later] += 10
        assert (not torch.allclose(reencoder(changed)[..., 15], reference[..., 15], atol=1e-6)) == changes


def test_pieces_follow_each_other_without_a_trace() -> None:
    reencoder = ReEncoder(make_trained(task="bwe", response_frames=3))
    stream = reencoder.streaming()
    first, second = piece(20), piece(13)
    streamed(stream, first, [20])
    torch.testing.assert_close(streamed(stream, second, [5, 8]), reencoder(second))
    with stream:
        stream(first)
    torch.testing.assert_close(streamed(stream, second, [13]), reencoder(second))


def test_shape_and_type_of_chunks_are_kept() -> None:
    reencoder = ReEncoder(make_trained(task="bwe", response_frames=1))
    stream = reencoder.streaming()
    alone = piece(9, batch=1)[0].bfloat16()
    output = streamed(stream, alone, [4, 5])
    assert (output.shape, output.dtype) == ((4, 9), torch.bfloat16)
    deep = piece(9, batch=6).unflatten(0, (2, 3))
    torch.testing.assert_close(streamed(stream, deep, [4, 5]), reencoder(deep))
    stream(deep)
    with pytest.raises(CheckpointError, match=r"differ only in length\n  found: \(6, 4, 9\)"):
        stream(piece(9, batch=6))


def test_an_ordinary_module_is_refused_or_approximated() -> None:
    reencoder = ReEncoder(make_trained(task="bwe"))
    with pytest.raises(CheckpointError, match=r"looks at the whole piece \(GRN\)[\s\S]*response_frames: 1"):
        reencoder.streaming()
    latents = piece(40)
    stream = reencoder.streaming(approximate=True)
    once = streamed(stream, latents, [40])
    torch.testing.assert_close(streamed(stream, latents, [1, 7, 0, 30, 2]), once, msg="chunks do not matter")
    offline = reencoder(latents)
    assert not torch.allclose(once, offline, atol=1e-3), "the norm is over what has come so far"
    torch.testing.assert_close(once[..., -1], offline[..., -1], msg="and at last that is the whole piece")


def test_there_is_nothing_to_flush_before_the_first_chunk() -> None:
    with pytest.raises(CheckpointError, match="nothing to flush"):
        ReEncoder(make_trained(task="bwe", response_frames=1)).streaming().flush()
