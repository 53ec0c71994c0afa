"""Segment-wise encoding: every frame once, enough context and not much more, and no seam that could be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny_build
from reencoder_pipeline.audio.resampling import downmix, low_band
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.autoencoders.vocos.autoencoder import HOUSE_WEIGHTS, VocosAutoencoder
from reencoder_pipeline.encoding.encode import encode_batch, encode_stream, require_steady
from reencoder_pipeline.encoding.segments import Cutter, plan_segments
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.errors import AudioError, ConfigError
from reencoder_pipeline.latents import LatentSpec

FAMILY = [
    "tiny",
    pytest.param("house", marks=pytest.mark.skipif(not HOUSE_WEIGHTS.is_file(), reason="weights are not in this tree")),
]


@pytest.fixture(scope="module", params=FAMILY)
def vocos(request: pytest.FixtureRequest, tiny_autoencoder: Path) -> VocosAutoencoder:
    autoencoder = load_autoencoder(str(tiny_autoencoder) if request.param == "tiny" else request.param)
    assert isinstance(autoencoder, VocosAutoencoder)
    return autoencoder


class Blur:
    """An autoencoder whose arithmetic is exact: latent t sums the samples of frames t - context to t + context, each
    frame with its own weight."""

    def __init__(self, *, hop: int, context: int) -> None:
        self.spec = LatentSpec("blur", "", sample_rate=8_000, hop=hop, channels=1)
        self.context, self.local, self.licence = context, True, "none"

    def encode(self, audio: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % self.spec.hop))
        sums = padded.reshape(1, 1, -1, self.spec.hop).sum(dim=-1)
        weights = torch.arange(1.0, 2 * self.context + 2).reshape(1, 1, -1)
        return torch.nn.functional.conv1d(sums, weights, padding=self.context)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(self.spec.hop, dim=-1)


# The plan

PLANS = st.tuples(st.integers(1, 2000), st.integers(0, 20), st.integers(1, 100))


@given(plan=PLANS)
def test_every_frame_is_kept_exactly_once(plan: tuple[int, int, int]) -> None:
    num_frames, context, more = plan
    segments = list(plan_segments(num_frames, segment_frames=2 * context + more, context=context))
    kept = [frame for segment in segments for frame in range(segment.keep_start, segment.keep_stop)]
    assert kept == list(range(num_frames))


@given(plan=PLANS)
def test_segments_are_equally_long_and_lie_within_the_track(plan: tuple[int, int, int]) -> None:
    num_frames, context, more = plan
    length = min(num_frames, 2 * context + more)
    for segment in plan_segments(num_frames, segment_frames=2 * context + more, context=context):
        assert segment.stop - segment.start == length
        assert 0 <= segment.start <= segment.keep_start < segment.keep_stop <= segment.stop <= num_frames


@given(plan=PLANS)
def test_kept_frames_have_their_context_unless_the_track_ends_there(plan: tuple[int, int, int]) -> None:
    num_frames, context, more = plan
    for segment in plan_segments(num_frames, segment_frames=2 * context + more, context=context):
        assert segment.start == 0 or segment.keep_start - segment.start >= context
        assert segment.stop == num_frames or segment.stop - segment.keep_stop >= context


@given(context=st.integers(0, 50), missing=st.integers(0, 10), num_frames=st.integers(1, 1000))
def test_a_segment_without_room_for_its_context_is_refused(context: int, missing: int, num_frames: int) -> None:
    with pytest.raises(ConfigError, match="segment_seconds"):
        list(plan_segments(num_frames, segment_frames=max(0, 2 * context - missing), context=context))


@given(plan=PLANS, hop=st.integers(1, 9), missing=st.integers(0, 8), cuts=st.lists(st.integers(0, 9000), max_size=8))
def test_what_arrives_in_blocks_is_cut_by_the_plan(
    plan: tuple[int, int, int], hop: int, missing: int, cuts: list[int]
) -> None:
    num_frames, context, more = plan
    audio = np.arange(1.0, num_frames * hop - min(missing, hop - 1) + 1, dtype=np.float32)[None]
    cutter = Cutter(hop=hop, segment_frames=2 * context + more, context=context)
    blocks = np.split(audio, sorted(min(cut, audio.shape[1]) for cut in cuts), axis=1)
    cut = [found for block in blocks for found in cutter.add(block)]
    cut += cutter.finish()
    assert [s for s, _ in cut] == list(plan_segments(num_frames, segment_frames=2 * context + more, context=context))
    padded = np.pad(audio, ((0, 0), (0, num_frames * hop - audio.shape[1])))
    for segment, piece in cut:
        assert np.array_equal(piece, padded[:, segment.start * hop : segment.stop * hop])


def test_a_cutter_keeps_back_less_than_two_segments_and_a_block() -> None:
    cutter, kept = Cutter(hop=8, segment_frames=10, context=2), 0
    for number in range(1, 101):
        for segment, _ in cutter.add(np.zeros((1, 50), np.float32)):
            kept = 8 * segment.keep_stop
        assert 50 * number - kept < 2 * 80 + 50


# Segments and the whole


@settings(max_examples=60)
@given(
    num_samples=st.integers(1, 3000),
    hop=st.integers(1, 40),
    context=st.integers(0, 5),
    more=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_segments_equal_the_whole_exactly(num_samples: int, hop: int, context: int, more: int, seed: int) -> None:
    autoencoder = Blur(hop=hop, context=context)
    audio = np.random.default_rng(seed).integers(-9, 10, size=(1, num_samples)).astype(np.float32)
    frames = encode_stream(autoencoder, audio, segment_frames=2 * context + more)
    whole = autoencoder.encode(torch.from_numpy(audio[None]))[0].T.numpy()
    assert frames.dtype == np.float32
    assert np.array_equal(frames, whole)


def test_too_little_context_would_be_noticed() -> None:
    """The test above fails when it should."""
    autoencoder = Blur(hop=4, context=3)
    audio = np.random.default_rng(0).integers(-9, 10, size=(1, 900)).astype(np.float32)
    whole = autoencoder.encode(torch.from_numpy(audio[None]))[0].T.numpy()
    autoencoder.context = 2
    assert not np.array_equal(encode_stream(autoencoder, audio, segment_frames=30), whole)


@pytest.mark.parametrize("over", [1, 30])
def test_no_seam_in_the_latents_of_music(vocos: VocosAutoencoder, over: int) -> None:
    spec, length = vocos.spec, 2 * vocos.context + over
    num_samples = (length + 2 * over + 2) * spec.hop + 100
    audio = tiny_build.music(seconds=num_samples / spec.sample_rate, channels=1)
    frames = encode_stream(vocos, audio, segment_frames=length)
    whole = vocos.encode(torch.from_numpy(audio[None]))[0].T.numpy()
    assert len(list(plan_segments(len(whole), segment_frames=length, context=vocos.context))) > 2
    assert frames.shape == whole.shape == (spec.num_frames(audio.shape[1]), spec.channels)
    assert np.abs(frames - whole).max() < 1e-4 * whole.std()


def test_encoding_is_the_same_twice(vocos: VocosAutoencoder) -> None:
    audio = tiny_build.music(seconds=1.0, channels=1)
    first, second = (encode_stream(vocos, audio, segment_frames=2 * vocos.context + 30) for _ in range(2))
    assert np.array_equal(first, second)


def test_latents_that_are_no_numbers_are_refused() -> None:
    autoencoder = Blur(hop=4, context=0)
    audio = np.full((1, 100), 3e38, dtype=np.float32)  # finite, but the sums are not
    with pytest.raises(AudioError, match="not numbers"):
        encode_stream(autoencoder, audio, segment_frames=10)


# Batches


def test_neighbours_in_a_batch_change_nothing(vocos: VocosAutoencoder) -> None:
    """To the bit, where the batch always has the same size."""
    music = tiny_build.music(seconds=1.0, channels=1)
    pieces = [music[:, start : start + 20 * vocos.spec.hop] for start in range(0, 4000, 1000)]
    require_steady(vocos, size=4, shape=pieces[0].shape)
    together = encode_batch(vocos, pieces, size=4)
    for place in (0, 3):
        assert np.array_equal(encode_batch(vocos, [pieces[place]], size=4)[0], together[place])
        np.testing.assert_allclose(encode_batch(vocos, [pieces[place]], size=1)[0], together[place], atol=1e-4)


class Crooked(Blur):
    """The second of a batch comes out slightly different."""

    def encode(self, audio: Tensor) -> Tensor:
        latents = torch.cat([super(Crooked, self).encode(item[None]) for item in audio])
        latents[1:] *= 1 + 1e-6
        return latents


class Leaky(Crooked):
    """Every item comes out with something of the others."""

    def encode(self, audio: Tensor) -> Tensor:
        latents = torch.cat([super(Crooked, self).encode(item[None]) for item in audio])
        return latents + 1e-3 * latents.mean(dim=0)


@pytest.mark.parametrize("kind", [Crooked, Leaky])
def test_an_autoencoder_that_minds_its_batch_is_refused(kind: type[Blur]) -> None:
    autoencoder = kind(hop=4, context=1)
    require_steady(autoencoder, size=1, shape=(1, 40))
    with pytest.raises(ConfigError, match=r"(?s)batch_segments.*found: 2.*1 always works"):
        require_steady(autoencoder, size=2, shape=(1, 40))


# Context


def test_context_covers_what_a_latent_depends_on_and_not_much_more(vocos: VocosAutoencoder) -> None:
    """By the gradient of one frame: exactly zero where a sample has no influence."""
    hop, frames = vocos.spec.hop, 2 * vocos.context + 11
    middle = frames // 2
    audio = 0.1 * torch.randn(1, 1, frames * hop, generator=torch.Generator().manual_seed(0))
    audio.requires_grad_()
    vocos.model.encoder(audio)[0][..., middle].sum().backward()
    assert audio.grad is not None
    touched = audio.grad[0, 0].reshape(frames, hop).abs().amax(dim=1).nonzero()[:, 0]
    reach = max(middle - int(touched.min()), int(touched.max()) - middle)
    assert reach <= vocos.context <= reach + 2


def test_context_covers_what_a_sample_depends_on_and_not_much_more(vocos: VocosAutoencoder) -> None:
    hop, frames = vocos.spec.hop, 2 * vocos.context + 11
    middle = frames // 2
    latents = torch.randn(1, vocos.spec.channels, frames, generator=torch.Generator().manual_seed(0))
    latents.requires_grad_()
    vocos.model.decoder(latents)[..., middle * hop : (middle + 1) * hop].abs().sum().backward()
    assert latents.grad is not None
    touched = latents.grad[0].abs().amax(dim=0).nonzero()[:, 0]
    reach = max(middle - int(touched.min()), int(touched.max()) - middle)
    assert reach <= vocos.context <= reach + 2


def test_other_audio_outside_the_context_changes_nothing(vocos: VocosAutoencoder) -> None:
    hop, kept = vocos.spec.hop, slice(vocos.context, vocos.context + 5)
    audio = tiny_build.music(seconds=1.0 + (2 * vocos.context + 9) * hop / 44_100, channels=1)
    other = -audio[:, ::-1].copy()
    inside = slice(0, (kept.stop + vocos.context) * hop)
    other[:, inside] = audio[:, inside]
    first, second = (vocos.encode(torch.from_numpy(x[None]))[0].T.numpy() for x in (audio, other))
    assert np.abs(first[kept] - second[kept]).max() < 1e-5 * first.std()
    assert np.abs(first[-5:] - second[-5:]).max() > 0.01 * first.std()


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_decoding_gives_back_the_length_in_whole_frames(vocos: VocosAutoencoder, offset: int) -> None:
    num_samples = 7 * vocos.spec.hop + offset
    latents = vocos.encode(torch.zeros(2, 1, num_samples))
    assert latents.shape == (2, vocos.spec.channels, vocos.spec.num_frames(num_samples))
    assert vocos.decode(latents).shape == (2, 1, vocos.spec.num_samples(latents.shape[-1]))


# Streams


def stream(name: str, audio: np.ndarray) -> np.ndarray:
    return make_stream(name, audio, sample_rate=44_100, low_band_rate=22_050, resampler="soxr_vhq")


def test_streams_are_views_of_a_stereo_track() -> None:
    audio = tiny_build.music(seconds=0.3, channels=2)
    assert np.array_equal(stream("left", audio), audio[:1])
    assert np.array_equal(stream("right", audio), audio[1:])
    assert np.array_equal(stream("mono", audio), downmix(audio))
    assert np.array_equal(stream("low_band", audio), low_band(downmix(audio), sample_rate=44_100))


@pytest.mark.parametrize("name", ["mono", "left", "right"])
def test_a_mono_track_is_its_own_left_and_right(name: str) -> None:
    audio = tiny_build.music(seconds=0.1, channels=1)
    assert np.array_equal(stream(name, audio), audio)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_stereo_stream_has_two_channels(channels: int) -> None:
    audio = tiny_build.music(seconds=0.1, channels=channels)
    both = stream("stereo", audio)
    assert np.array_equal(both, audio if channels == 2 else np.concatenate([audio, audio]))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["mono", "low_band", "left", "right"])
def test_every_stream_has_one_channel_and_the_tracks_length(name: str, channels: int) -> None:
    """Frame t of every stream is the same time only if they are equally long."""
    audio = tiny_build.music(seconds=0.1, channels=channels)
    assert stream(name, audio).shape == (1, audio.shape[1])
