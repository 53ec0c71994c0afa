"""Tracks on their way into a shard: block by block as the whole would be, batched across tracks, each for itself."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from reencoder_pipeline.audio import read as audio_module
from reencoder_pipeline.audio.read import read_audio, read_blocks
from reencoder_pipeline.audio.resampling import Audio, downmix, resample
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.encode import encode_stream
from reencoder_pipeline.encoding.encode_tracks import encode_track, encode_tracks
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.encoding.read_ahead import read_ahead
from reencoder_pipeline.encoding.segments import plan_segments
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.errors import AudioError, ConfigError
from reencoder_pipeline.latents import LatentSpec
from tiny_build import MUSIC, tiny_config
from tiny_build import music as render

STREAMS = ("mono", "low_band", "left", "right")


SPEC = LatentSpec("picking", "", sample_rate=44_100, hop=256, channels=8)
SEGMENT = SPEC.frames_in(1.5)


class Picking:
    """Latent t is the sum of some samples of frames t - 2 to t + 2: the same to the bit in any batch. Writes down the
    shapes of what it encodes."""

    spec, context, local, licence = SPEC, 2, True, "none"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, audio: Tensor) -> Tensor:
        self.shapes.append(tuple(audio.shape))
        padded = F.pad(audio[:, 0], (0, -audio.shape[-1] % SPEC.hop))
        frames = padded.unflatten(1, (-1, SPEC.hop))[:, :, ::32]
        around = F.pad(frames, (0, 0, 2, 2))
        summed = sum(around[:, shift : shift + frames.shape[1]] for shift in range(5))
        return torch.as_tensor(summed).transpose(1, 2)  # (B, T, C) -> (B, C, T)

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


def config(**settings: Any) -> EncodeSettings:
    return EncodeSettings.of(tiny_config("picking", **settings))


def tracks_of(folder: Path, names: Sequence[str] = tuple(MUSIC)) -> list[Track]:
    return [Track(id=name, path=folder / name, split="train") for name in names]


def track_of(folder: Path, name: str) -> Track:
    return tracks_of(folder, [name])[0]


def written(path: Path, audio: np.ndarray, *, subtype: str | None = None) -> Path:
    soundfile.write(path, audio.T, 44_100, subtype=subtype)
    return path


def same(one: EncodedTrack | Exception, other: EncodedTrack | Exception) -> bool:
    assert isinstance(one, EncodedTrack)
    assert isinstance(other, EncodedTrack)
    return all(np.array_equal(one.streams[name], other.streams[name]) for name in STREAMS) and (
        (one.num_samples, one.tasks, one.side_mid_db) == (other.num_samples, other.tasks, other.side_mid_db)
    )


# Block by block


@pytest.mark.parametrize("name", ["Album 1/02 second.flac", "fourth.FLAC", "mono.wav", "album.2/third [live] (2).mp3"])
@pytest.mark.parametrize("size", [131_072, 5_000])
def test_a_track_read_in_blocks_is_the_track_read_whole(
    music: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    """To the last bit, whatever the blocks: of 48, 96, 22.05 and 44.1 kHz."""
    audio, _ = read_audio(music / name, sample_rate=44_100)
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", size)
    encoded = encode_track(Picking(), track_of(music, name), config(precision="float32"))
    assert (encoded.num_samples, encoded.num_frames) == (audio.shape[1], SPEC.num_frames(audio.shape[1]))
    for stream in STREAMS:
        waveform = make_stream(stream, audio, sample_rate=44_100, low_band_rate=22_050, resampler="soxr_vhq")
        assert np.array_equal(encoded.streams[stream], encode_stream(Picking(), waveform, segment_frames=SEGMENT))
        assert encoded.streams[stream].flags.c_contiguous


@pytest.mark.parametrize("name", ["Album 1/02 second.flac", "mono.wav", "album.2/third [live] (2).mp3", "short.wav"])
@pytest.mark.parametrize("size", [131_072, 5_000])
def test_of_a_track_the_middle_alone(music: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int) -> None:
    """As a file would be that holds nothing else; a shorter track is whole."""
    audio, rate = read_audio(music / name)
    first = max(0, (audio.shape[1] - round(2.5 * rate)) // 2)
    audio = resample(audio[:, first : first + round(2.5 * rate)], rate, 44_100)
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", size)
    encoded = encode_track(Picking(), track_of(music, name), config(precision="float32", track_seconds=2.5))
    assert encoded.num_samples == audio.shape[1] <= 2.5 * 44_100
    for stream in STREAMS:
        waveform = make_stream(stream, audio, sample_rate=44_100, low_band_rate=22_050, resampler="soxr_vhq")
        assert np.array_equal(encoded.streams[stream], encode_stream(Picking(), waveform, segment_frames=SEGMENT))


def test_a_fault_behind_the_middle_is_found_too(tmp_path: Path) -> None:
    audio = np.full((2, 9 * 44_100), 0.5, np.float32)
    audio[0, -1] = np.nan
    written(tmp_path / "late.wav", audio, subtype="FLOAT")
    with pytest.raises(AudioError, match="not numbers"):
        encode_track(Picking(), track_of(tmp_path, "late.wav"), config(track_seconds=1.0))


def test_so_it_is_with_a_network(music: Path, tiny_autoencoder: Path) -> None:
    tiny = load_autoencoder(str(tiny_autoencoder))
    track = track_of(music, "Album 1/02 second.flac")
    encoded = encode_track(tiny, track, config(precision="float32", streams=["mono"]))
    waveform = downmix(read_audio(track.path, sample_rate=44_100)[0])
    assert np.array_equal(encoded.streams["mono"], encode_stream(tiny, waveform, segment_frames=SEGMENT))


def test_other_resamplers_make_the_low_band_in_blocks_too(music: Path) -> None:
    track, resampler = track_of(music, "Album 1/01 first.wav"), "torchaudio_kaiser_best"
    waveform = make_stream(
        "low_band", read_audio(track.path)[0], sample_rate=44_100, low_band_rate=22_050, resampler=resampler
    )
    encoded = encode_track(Picking(), track, config(precision="float32", resampler=resampler, streams=["low_band"]))
    whole = encode_stream(Picking(), waveform, segment_frames=SEGMENT)
    np.testing.assert_allclose(encoded.streams["low_band"], whole, atol=1e-5)


def test_a_mono_file_is_encoded_once_for_all_streams_that_it_is(music: Path) -> None:
    picking = Picking()
    encoded = encode_track(picking, track_of(music, "mono.wav"), config())
    plan = plan_segments(encoded.num_frames, segment_frames=SEGMENT, context=2)
    assert len(picking.shapes) == 2 * len(list(plan))
    assert np.array_equal(encoded.streams["left"], encoded.streams["mono"])
    assert not np.array_equal(encoded.streams["low_band"], encoded.streams["mono"])


# Across tracks


def test_batches_are_always_full_and_the_tracks_beside_change_nothing(music: Path) -> None:
    alone = {track.id: encode_track(Picking(), track, config()) for track in tracks_of(music)}
    picking, pieces = Picking(), 0
    outcomes = list(encode_tracks(picking, tracks_of(music, list(MUSIC)[::-1]), config(batch_segments=4)))
    assert [track.id for track, _ in outcomes] == list(MUSIC)[::-1]
    for track, outcome in outcomes:
        assert same(outcome, alone[track.id])
        streams = 2 if track.id == "mono.wav" else 4
        pieces += streams * len(list(plan_segments(alone[track.id].num_frames, segment_frames=SEGMENT, context=2)))
    short = alone["short.wav"].num_frames * SPEC.hop
    assert [shape for shape in picking.shapes if shape[2] == short] == [(1, 1, short)] * 4, "encoded alone"
    full = [shape for shape in picking.shapes if shape[2] != short]
    assert set(full) == {(4, 1, SEGMENT * SPEC.hop)}
    tried_out = 2
    assert len(full) - tried_out == -(-(pieces - 4) // 4)


def test_a_batch_size_that_this_autoencoder_minds_is_an_error(music: Path) -> None:
    class Crooked(Picking):
        def encode(self, audio: Tensor) -> Tensor:
            latents = super().encode(audio).clone()
            latents[1:] *= 1 + 1e-6
            return latents

    with pytest.raises(ConfigError, match="batch_segments"):
        list(encode_tracks(Crooked(), tracks_of(music), config(batch_segments=3)))


def damaged(folder: Path) -> dict[str, str]:
    """Files of three seconds in which something is wrong after two; name -> what has to be said."""
    audio = render(seconds=3.0, seed=5)
    whole = written(folder / "cut.mp3", audio).read_bytes()
    (folder / "cut.mp3").write_bytes(whole[: len(whole) * 2 // 3])
    bad, loud = audio.copy(), audio.copy()
    bad[0, 100_000:100_003] = np.nan
    loud[:, 100_000:] *= 1e6
    written(folder / "nan.wav", bad, subtype="FLOAT")
    written(folder / "loud.wav", loud, subtype="FLOAT")
    return {"cut.mp3": "another length", "nan.wav": "found: 3 of them", "loud.wav": "lies far above full scale"}


@pytest.mark.parametrize("size", [1, 4])
def test_a_track_that_fails_in_the_middle_takes_nothing_with_it(music: Path, tmp_path: Path, size: int) -> None:
    good = tracks_of(music, ["Album 1/01 first.wav", "short.wav", "mono.wav", "zeros.wav"])
    expected = {track.id: outcome for track, outcome in encode_tracks(Picking(), good, config())}
    reasons = {**damaged(tmp_path), "gone.wav": "no such audio file"}
    mixed = [track for pair in zip(good, tracks_of(tmp_path, list(reasons)), strict=True) for track in pair]
    outcomes = list(encode_tracks(Picking(), mixed, config(batch_segments=size)))
    assert [track for track, _ in outcomes] == mixed
    for track, outcome in outcomes:
        if track.id in expected:
            assert same(outcome, expected[track.id])
        else:
            assert isinstance(outcome, AudioError)
            assert str(outcome).startswith(f"{track.path}: ")
            assert reasons[track.id] in str(outcome)


def test_a_fault_of_the_file_is_named_before_one_of_its_latents(tmp_path: Path) -> None:
    """Which is found first depends on batches; what failures.jsonl says must not."""
    audio = render(seconds=4.0)
    audio[:, 10_000:20_000] *= 1e6
    audio[:, -5] = np.inf
    written(tmp_path / "both.wav", audio, subtype="FLOAT")
    for size in (1, 64):
        with pytest.raises(AudioError, match=r"(?s)not numbers.*2 of them"):
            encode_track(Picking(), track_of(tmp_path, "both.wav"), config(batch_segments=size))


def test_a_file_that_changed_since_it_was_planned_may_pass(music: Path) -> None:
    changed = replace(track_of(music, "short.wav"), sha256="0" * 64)
    ((_, outcome),) = encode_tracks(Picking(), [changed], config())
    assert isinstance(outcome, OSError)
    assert "changed while the build was running" in str(outcome)


def test_no_memory_for_a_batch_is_news_of_its_tracks_alone(music: Path) -> None:
    class Full(Picking):
        def encode(self, audio: Tensor) -> Tensor:
            latents = super().encode(audio)
            if len(self.shapes) == 1:
                raise MemoryError
            return latents

    outcomes = list(encode_tracks(Full(), tracks_of(music), config()))
    assert [type(outcome) for _, outcome in outcomes] == [MemoryError] + [EncodedTrack] * (len(MUSIC) - 1)


# Ahead


def test_reading_is_ahead_by_a_few_segments_however_long_the_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "long.wav", np.zeros((2, 120 * 44_100), np.float32))
    read, leads = [0], []

    def counted(path: Path, *, num_samples: int | None) -> Iterator[tuple[Audio, int]]:
        for block, rate in read_blocks(path, num_samples=num_samples):
            read[0] += block.shape[1]
            yield block, rate

    class Late(Picking):
        def encode(self, audio: Tensor) -> Tensor:
            time.sleep(0.002)  # reading could be done long before
            leads.append(read[0] - len(self.shapes) / len(STREAMS) * (SEGMENT - 4) * SPEC.hop)
            return super().encode(audio)

    monkeypatch.setattr(audio_module, "read_blocks", counted)
    encode_track(Late(), track_of(tmp_path, "long.wav"), config())
    assert read[0] == 120 * 44_100
    assert max(leads) < 10 * 44_100


def test_what_is_read_ahead_comes_in_order_and_not_too_early() -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        while made < 50:
            made += 1
            yield made

    for taken in read_ahead(items(), depth=3):
        assert made <= taken + 3
    assert made == taken == 50


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    taken = []
    with pytest.raises(ValueError, match="third"):
        taken += read_ahead(items(), depth=8)  # extends one by one
    assert taken == [1, 2]


def test_whoever_stops_early_leaves_no_thread(music: Path) -> None:
    before = set(threading.enumerate())
    outcomes = encode_tracks(Picking(), tracks_of(music), config())
    next(outcomes)
    del outcomes
    gc.collect()
    assert set(threading.enumerate()) == before
