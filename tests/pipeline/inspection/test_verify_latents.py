"""Verification of what the bytes mean: values, statistics, the autoencoder, and seams, each with a known answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.cache.index import CachedTrack, Statistics
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.encoding.encode import encode_stream
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.errors import AutoencoderError, CorpusError
from reencoder_pipeline.inspection.finding import Finding
from reencoder_pipeline.inspection.seams import check_edges, near_boundaries
from reencoder_pipeline.inspection.value_checks import ValueCheck
from reencoder_pipeline.inspection.verify import discard, verify_all, verify_autoencoder
from tiny_build import Built
from tiny_cache import STREAMS, write_cache

Streams = dict[str, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Values and statistics


@pytest.fixture
def cache(tmp_path: Path) -> LatentCache:
    return open_cache(write_cache(tmp_path / "cache"))


def values_of(cache: LatentCache) -> dict[str, Streams]:
    """Shard -> stream -> (frames, channels)."""
    return {
        shard.key: {name: np.concatenate([cache.read(track, name) for track in shard.tracks]) for name in STREAMS}
        for shard in cache.shards
    }


def checked(cache: LatentCache, values: dict[str, Streams]) -> list[Finding]:
    check = ValueCheck(cache)
    found = [finding for shard in cache.shards for finding in check.add(shard, values[shard.key])]
    return found + list(check.whole())


def place(cache: LatentCache, number: int) -> tuple[CachedTrack, slice]:
    track = cache.tracks[number]
    return track, slice(track.first_frame, track.first_frame + track.num_frames)


def test_sound_values_and_their_statistics_are_sound(cache: LatentCache) -> None:
    assert checked(cache, values_of(cache)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_damage_of_its_track(cache: LatentCache, value: float) -> None:
    values, (track, frames) = values_of(cache), place(cache, 2)
    values[track.shard]["left"][frames.start + 7, 3] = value
    with np.errstate(invalid="ignore"):
        found = checked(cache, values)
    assert (found[0].severity, found[0].shard) == ("damage", track.shard)
    assert found[0].problem == f"{track.id}, left: 1 frames are not finite, the first is frame 7"
    assert discard(cache, found) == 1


def test_frames_of_zeros_are_warned_of(cache: LatentCache) -> None:
    values, (track, frames) = values_of(cache), place(cache, 7)  # of the valid split: no part of the statistics
    values[track.shard]["mono"][frames][10:13] = 0
    (found,) = checked(cache, values)
    assert found.severity == "warning"
    assert found.problem == f"{track.id}, mono: 3 frames have one value in all channels, the first is 10"
    assert discard(cache, [found]) == 0


def test_a_track_that_stands_still_is_warned_of_unless_it_is_silent(cache: LatentCache) -> None:
    values, (track, frames) = values_of(cache), place(cache, 6)
    values[track.shard]["right"][frames] = values[track.shard]["right"][frames.start]
    (found,) = checked(cache, values)
    assert (found.severity, found.problem) == (
        "warning",
        f"{track.id}, right: 100% of the frames repeat the one before",
    )
    silent = replace(track, bandwidth_hz=0)
    cache.shards = tuple(
        replace(shard, tracks=tuple(silent if one == track else one for one in shard.tracks)) for shard in cache.shards
    )
    assert checked(cache, values) == []


def test_a_channel_that_never_changes_is_warned_of(cache: LatentCache) -> None:
    values = values_of(cache)
    for streams in values.values():
        streams["mono"][:, 5] = 0.25
    cache.statistics["mono"].mean[5], cache.statistics["mono"].std[5] = 0.25, 0.0
    (found,) = checked(cache, values)
    assert (found.severity, found.problem) == ("warning", "mono: 1 channels never change, the first: [5]")


@pytest.mark.parametrize(
    ("shift", "factor", "drifts"), [(1e-6, 1, False), (0, 1 + 1e-6, False), (1e-3, 1, True), (0, 1.001, True)]
)
def test_statistics_that_are_not_those_of_the_frames_are_damage(
    cache: LatentCache, shift: float, factor: float, drifts: bool
) -> None:
    values, true = values_of(cache), cache.statistics["low_band"]
    mean, std = true.mean.copy(), true.std.copy()
    mean[4] += shift * std[4]
    std[4] *= factor
    cache.statistics["low_band"] = Statistics(mean, std)
    found = checked(cache, values)
    assert [(one.severity, one.check, one.shard) for one in found] == [("damage", "statistics", None)] * drifts
    assert all("worst in channel 4" in one.problem for one in found)


# The autoencoder


def test_other_weights_are_damage_and_another_name_is_not(cache: LatentCache) -> None:
    assert verify_autoencoder(cache, replace(cache.spec, autoencoder="renamed")) == []
    found = verify_autoencoder(cache, replace(cache.spec, weights="1" * 64, hop=512))
    assert [(one.severity, one.problem.split(":")[0]) for one in found] == [("damage", "weights"), ("damage", "hop")]


# Edges


class Another:
    """An autoencoder that says something else of itself than the one in it."""

    def __init__(self, inner: Autoencoder, *, context: int | None = None, local: bool = True) -> None:
        self._inner, self.spec, self.licence, self.local = inner, inner.spec, inner.licence, local
        self.context = inner.context if context is None else context

    def encode(self, audio: Tensor) -> Tensor:
        return self._inner.encode(audio)

    def decode(self, latents: Tensor) -> Tensor:
        return self._inner.decode(latents)


@pytest.fixture(scope="module")
def tiny(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


@pytest.fixture
def encoded(built: Built) -> LatentCache:
    return open_cache(built("zarr"))


Frames = Callable[[CachedTrack, str], np.ndarray]


def reading(cache: LatentCache, read: Frames, monkeypatch: pytest.MonkeyPatch) -> LatentCache:
    monkeypatch.setattr(cache, "read", read)
    return cache


def by_severity(found: list[Finding]) -> dict[str, set[str]]:
    return {
        severity: {finding.problem.split(":")[0] for finding in found if finding.severity == severity}
        for severity in ("damage", "warning", "note")
    }


def test_a_cache_equals_its_source_in_one_piece(encoded: LatentCache, tiny: Autoencoder, music: Path) -> None:
    told: list[tuple[int, int]] = []
    found = check_edges(
        encoded, tiny, music, samples=6, seed=0, progress=lambda done, total: told.append((done, total))
    )
    assert by_severity(found) == {"damage": set(), "warning": set(), "note": set(encoded.streams)}
    for finding in found:
        assert finding.measured is not None
        assert finding.measured["frames_at"] > 20
        assert finding.measured["frames_away"] > 200
        assert 0 < finding.measured["largest_away"] < 0.01  # float16
        assert finding.measured["largest_at"] < 0.01
    assert told[-1][0] == told[-1][1]
    assert found == check_edges(encoded, tiny, music, samples=6, seed=0)


def test_too_little_context_is_a_seam(
    encoded: LatentCache, tiny: Autoencoder, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one: tracks encoded in segments by an autoencoder that claims to need no context."""
    from reencoder_pipeline.audio.read import read_audio

    paths = {track.id: track.path for track in read_corpus(music)}
    blinkered = Another(tiny, context=0)

    def read(track: CachedTrack, stream: str) -> np.ndarray:
        rate = encoded.spec.sample_rate
        audio, _ = read_audio(paths[track.id], sample_rate=rate)
        waveform = make_stream(stream, audio, sample_rate=rate, low_band_rate=22_050, resampler="soxr_vhq")
        return encode_stream(blinkered, waveform, segment_frames=encoded.spec.frames_in(1.5)).astype(np.float16)

    monkeypatch.setattr(encoded, "streams", ("mono",))
    found = check_edges(reading(encoded, read, monkeypatch), blinkered, music, samples=4, seed=1)
    assert by_severity(found) == {"damage": {"mono"}, "warning": set(), "note": {"mono"}}
    (seam,) = [finding for finding in found if finding.severity == "damage"]
    assert "a seam at segment boundaries" in seam.problem
    assert seam.measured is not None
    assert seam.measured["largest_away"] < 0.01


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("where", ["boundaries", "everywhere"])
def test_a_difference_of_known_size_is_measured_and_judged(
    encoded: LatentCache, tiny: Autoencoder, music: Path, monkeypatch: pytest.MonkeyPatch, where: str, local: bool
) -> None:
    true, size = encoded.read, 0.25

    def read(track: CachedTrack, stream: str) -> np.ndarray:
        near = near_boundaries(track.num_frames, segment_frames=encoded.spec.frames_in(1.5), context=tiny.context)
        changed = near if where == "boundaries" else ~near
        return true(track, stream) + size * encoded.statistics[stream].std * changed[:, None]

    monkeypatch.setattr(encoded, "streams", ("left",))
    found = check_edges(reading(encoded, read, monkeypatch), Another(tiny, local=local), music, samples=3, seed=2)
    (note,) = [finding for finding in found if finding.severity == "note"]
    assert note.measured is not None
    side = "at" if where == "boundaries" else "away"
    assert note.measured[f"mean_{side}"] == pytest.approx(size, abs=0.01)
    assert note.measured[f"largest_{side}"] == pytest.approx(size, abs=0.01)
    others = [finding.severity for finding in found if finding.severity != "note"]
    if local:
        assert others == ["damage"]
    else:  # its segments are not the whole track, wherever; only a seam is worth a word
        assert others == ["warning"] * (where == "boundaries")


def test_files_that_are_others_now_are_not_compared(
    encoded: LatentCache, tiny: Autoencoder, music: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    (folder / "mono.wav").write_bytes((music / "mono.wav").read_bytes()[:-2] + b"\0\1")
    found = check_edges(encoded, tiny, folder, samples=2, seed=0)
    assert [finding.severity for finding in found] == ["warning", "warning"]
    assert "8 of 9 tracks are not in" in found[0].problem
    assert "mono.wav: not compared" in found[1].problem
    (folder / "mono.wav").rename(folder / "other.wav")
    with pytest.raises(CorpusError, match="the cache was not made from this source"):
        check_edges(encoded, tiny, folder, samples=2, seed=0)


# All together


def test_which_autoencoder_it_was_is_not_taken_from_a_cache(encoded: LatentCache, music: Path) -> None:
    with pytest.raises(AutoencoderError, match=r"(?s)does not ship.*tiny.*--autoencoder"):
        verify_all(
            encoded, quick=True, autoencoder=None, source=music, samples=1, seed=0, progress=lambda done, total: None
        )


def test_the_command_line_tells_notes_from_damage(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    line = ["verify", str(built("zarr")), "--source", str(music), "--samples", "2", "--autoencoder"]
    sound = CliRunner().invoke(app, [*line, str(tiny_autoencoder), "--json"])
    assert sound.exit_code == 0, sound.output
    assert {row["severity"] for row in json.loads(sound.stdout)} == {"note"}

    from tiny_build import SHAPE, Vocos, save_vocos

    torch.manual_seed(1)
    save_vocos(Vocos(SHAPE), tmp_path / "tiny.safetensors", training={})
    other = CliRunner().invoke(app, [*line, str(tmp_path / "tiny.safetensors"), "--quick"])
    assert other.exit_code == 3
    assert "damaged: index.json: weights: " in other.stdout
    assert "0 damaged, and the cache as a whole" in other.stdout
