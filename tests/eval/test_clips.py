"""The choice of clips: decided by the seed, spread over tracks, nothing skipped silently; excerpts read alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from reencoder_eval.clips.choose import choose_clips
from reencoder_eval.clips.read import Clip, load_clip, read_excerpt
from reencoder_eval.metrics.spectral import filter_band, level_dbfs
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.errors import AudioError, EvaluationError
from reencoder_pipeline.tasks import get_task

RATE = 44_100


def noise(seconds: float, *, channels: int = 2, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """(samples, channels)"""
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))


def write(folder: Path, name: str, audio: np.ndarray, *, rate: int = RATE, **fields: object) -> Track:
    path = folder / name
    soundfile.write(str(path), audio, rate)
    return Track(id=name, path=path, **fields)  # type: ignore[arg-type]


@pytest.fixture
def tracks(tmp_path: Path) -> list[Track]:
    return [write(tmp_path, f"{number}.wav", noise(5.5, seed=number)) for number in range(4)]


def choose(tracks: list[Track], *, num_clips: int = 8, clip_seconds: float = 1.0, seed: int = 0) -> tuple[Clip, ...]:
    return choose_clips(tracks, task="bwe", num_clips=num_clips, clip_seconds=clip_seconds, seed=seed).clips


def test_the_choice_is_a_function_of_the_seed(tracks: list[Track]) -> None:
    assert choose(tracks) == choose(tracks[::-1])
    assert choose(tracks, seed=1) != choose(tracks)


def test_a_longer_choice_begins_with_a_shorter_one(tracks: list[Track]) -> None:
    assert choose(tracks, num_clips=11)[:5] == choose(tracks, num_clips=5)


def test_clips_of_a_track_do_not_depend_on_the_other_tracks(tracks: list[Track]) -> None:
    alone = choose(tracks[1:2], num_clips=3)
    among = [clip for clip in choose(tracks, num_clips=12) if clip.track == tracks[1].id]
    assert tuple(among) == alone


def test_every_track_has_its_turn(tracks: list[Track]) -> None:
    assert len({clip.track for clip in choose(tracks, num_clips=4)}) == 4
    assert set(Counter(clip.track for clip in choose(tracks, num_clips=10)).values()) == {2, 3}


def test_clips_fit_into_their_track_and_never_overlap(tracks: list[Track]) -> None:
    clips = choose(tracks, num_clips=1000)
    assert len(clips) == 4 * 5  # tracks of 5.5 s hold five seconds each
    for track in tracks:
        starts = sorted(clip.start for clip in clips if clip.track == track.id)
        assert starts[0] >= 0
        assert starts[-1] + RATE <= round(5.5 * RATE)
        assert min(np.diff(starts)) >= RATE


def test_silence_is_passed_over_and_listed(tmp_path: Path) -> None:
    half_silent = noise(4.0)
    half_silent[: 2 * RATE] *= 1e-4
    tracks = [write(tmp_path, "a.wav", half_silent), write(tmp_path, "zeros.wav", np.zeros((2 * RATE, 1)))]
    choice = choose_clips(tracks, task="bwe", num_clips=10, clip_seconds=1.0, seed=0)
    assert {clip.track for clip in choice.clips} == {"a.wav"}
    assert all(level_dbfs(read_excerpt(clip)) > -60 for clip in choice.clips)
    assert all(level_dbfs(read_excerpt(clip)) < -60 for clip in choice.silent)
    assert len(choice.clips) + len(choice.silent) == 4 + 2


def test_short_tracks_and_unreadable_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    tracks = [
        write(tmp_path, "good.wav", noise(2.0)),
        write(tmp_path, "short.wav", noise(0.5)),
        Track(id="text", path=tmp_path / "text.wav"),
        Track(id="absent", path=tmp_path / "absent.wav"),
    ]
    choice = choose_clips(tracks, task="bwe", num_clips=5, clip_seconds=1.0, seed=0)
    assert {clip.track for clip in choice.clips} == {"good.wav"}
    assert choice.too_short == ("short.wav",)
    assert {Path(str(error.where)).name for error in choice.failures} == {"text.wav", "absent.wav"}


def test_only_suited_tracks_are_chosen(tmp_path: Path) -> None:
    tracks = [
        write(tmp_path, "other_task.wav", noise(2.0), tasks=("m2s",)),
        write(tmp_path, "narrow.wav", noise(2.0, rate=22_050), rate=22_050),
        write(tmp_path, "wide.wav", noise(2.0, rate=48_000), rate=48_000),
        write(tmp_path, "named.wav", noise(2.0), tasks=("bwe", "m2s")),
    ]
    assert {clip.track for clip in choose(tracks)} == {"wide.wav", "named.wav"}
    with pytest.raises(EvaluationError, match="no track suits the task bwe"):
        choose(tracks[:2])


def test_nothing_usable_is_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="1 tracks too short"):
        choose([write(tmp_path, "short.wav", noise(0.5))])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_an_excerpt_is_read_from_its_place(tmp_path: Path, suffix: str) -> None:
    track = write(tmp_path, f"a.{suffix}", noise(3.0))
    whole, _ = soundfile.read(str(track.path), dtype="float32")
    excerpt = read_excerpt(Clip(track.id, track.path, 30_000, RATE, RATE))
    np.testing.assert_allclose(excerpt, whole[30_000 : 30_000 + RATE].T, atol=1e-4)


def test_an_excerpt_past_the_end_is_an_error(tracks: list[Track]) -> None:
    with pytest.raises(AudioError, match="ends before its header says"):
        read_excerpt(Clip("a", tracks[0].path, 5 * RATE, RATE, RATE))


def test_a_clip_becomes_the_streams_of_its_task(tmp_path: Path) -> None:
    track = write(tmp_path, "a.wav", noise(2.0, rate=48_000), rate=48_000)
    clip = choose([track], num_clips=1)[0]
    audio = load_clip(clip, task=get_task("bwe"), sample_rate=RATE, resampler="soxr_vhq")
    assert set(audio.streams) == {"mono", "low_band"}
    assert all(stream.shape == (2 * RATE,) and stream.dtype == np.float32 for stream in audio.streams.values())
    mono, low = audio.stack(["mono", "low_band"])
    assert level_dbfs(filter_band(mono, "high", sample_rate=RATE)) > -40
    assert level_dbfs(filter_band(low, "high", sample_rate=RATE)) < -55  # what the resampler leaves at the edge
    np.testing.assert_allclose(
        filter_band(low, "low", sample_rate=RATE)[2000:-2000],
        filter_band(mono, "low", sample_rate=RATE)[2000:-2000],
        atol=0.05,
    )
    assert audio.stack(["low_band", "mono"]).shape == (2, RATE)


def test_a_clip_comes_with_half_a_second_of_its_track_on_either_side_and_silence_beyond_the_ends(
    tmp_path: Path,
) -> None:
    track = write(tmp_path, "a.wav", noise(3.0, channels=1), rate=RATE)
    written, _ = soundfile.read(track.path, dtype="float32")
    load = {"task": get_task("bwe"), "sample_rate": RATE, "resampler": "soxr_vhq"}
    margin = RATE // 2
    inside = load_clip(Clip("a", track.path, RATE, RATE, RATE), **load)
    np.testing.assert_array_equal(inside.streams["mono"], written[RATE - margin : 2 * RATE + margin])
    np.testing.assert_array_equal(inside.stack(["mono"])[0], written[RATE : 2 * RATE])
    first = load_clip(Clip("a", track.path, 0, RATE, RATE), **load)
    assert not first.streams["mono"][:margin].any()
    np.testing.assert_array_equal(first.streams["mono"][margin:], written[: RATE + margin])
    last = load_clip(Clip("a", track.path, 2 * RATE, RATE, RATE), **load)
    assert not last.streams["mono"][-margin:].any()
    np.testing.assert_array_equal(last.stack(["mono"])[0], written[2 * RATE :])


def test_the_digest_of_a_clip_follows_its_audio(tracks: list[Track]) -> None:
    first, second = choose(tracks, num_clips=2)
    load = {"task": get_task("bwe"), "sample_rate": RATE}
    digest = load_clip(first, **load, resampler="soxr_vhq").digest
    assert digest == load_clip(first, **load, resampler="soxr_vhq").digest
    assert digest != load_clip(second, **load, resampler="soxr_vhq").digest
    assert digest != load_clip(first, **load, resampler="torchaudio_default").digest
