"""What inspection says of latents whose statistics are known, of odd caches, and the pictures it draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app
from reencoder_pipeline.inspection.figures import draw
from reencoder_pipeline.inspection.measurements import HISTOGRAM_EDGES, WINDOW_FRAMES, describe, measure
from reencoder_pipeline.inspection.summary import report, spread, summarise
from tiny_cache import SPEC, write_cache

WINDOWS, FRAMES, CHANNELS = 400, 128, 4


@pytest.fixture
def cache(tmp_path: Path) -> LatentCache:
    return open_cache(write_cache(tmp_path / "cache"))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((WINDOWS, FRAMES, CHANNELS))


# Latents of known statistics


def test_white_noise_is_white_in_time_and_in_channels() -> None:
    one = describe(noise())
    assert one["autocorrelation"]["median"][0] == 1
    assert one["autocorrelation"]["median"][1:] == pytest.approx([0] * (FRAMES // 2 - 1), abs=0.02)
    assert np.array(one["correlation"]) == pytest.approx(np.eye(CHANNELS), abs=0.02)
    assert one["mean_absolute_correlation"] < 0.02
    assert one["excess_kurtosis"] == pytest.approx(0, abs=0.1)
    assert one["beyond_4"] == pytest.approx(6.3e-5, abs=4e-5)


def test_the_histogram_counts_every_value_within_its_edges() -> None:
    latents = noise(1)
    latents[0, 0, :2] = 9.0, -100.0
    one = describe(latents)
    assert one["values"] == latents.size
    assert sum(one["histogram"]) == latents.size - 2
    middles = (HISTOGRAM_EDGES[1:] + HISTOGRAM_EDGES[:-1]) / 2
    density = np.array(one["histogram"]) / latents.size / np.diff(HISTOGRAM_EDGES)
    assert density == pytest.approx(np.exp(-np.square(middles) / 2) / np.sqrt(2 * np.pi), abs=0.02)


def test_an_autoregressive_channel_has_its_powers_as_autocorrelation() -> None:
    latents = noise(2)
    latents[:, 0] /= np.sqrt(1 - 0.8**2)
    for frame in range(1, FRAMES):
        latents[:, frame] += 0.8 * latents[:, frame - 1]
    curve = describe(latents)["autocorrelation"]
    assert curve["median"] == pytest.approx([0.8**lag for lag in range(FRAMES // 2)], abs=0.05)
    assert all(
        low <= middle <= high for low, middle, high in zip(curve["p10"], curve["median"], curve["p90"], strict=True)
    )


def test_channels_that_move_together_or_against_each_other_or_not_at_all() -> None:
    latents = noise(3)
    latents[..., 1] = -2 * latents[..., 0]
    latents[..., 2] = 1.5
    one = describe(latents)
    correlation = np.array(one["correlation"])
    assert correlation[0, 1] == -1
    assert not correlation[2].any()
    assert one["mean_absolute_correlation"] == pytest.approx(1 / 3, abs=0.02)  # of the three pairs that move


# A cache


def test_what_a_module_has_to_learn_is_the_distance_of_the_streams(cache: LatentCache) -> None:
    """In write_cache, the first two channels are alike in every stream, and mono, left and right altogether."""
    measured = measure(cache, windows=300, seed=0)
    assert measured["distance"]["m2s"] == pytest.approx([0] * SPEC.channels, abs=1e-6)
    bwe = measured["distance"]["bwe"]
    assert bwe[:2] == pytest.approx([0, 0], abs=1e-6)
    gaps = [np.abs(cache.read(t, "mono").astype(float) - cache.read(t, "low_band")) for t in cache.tracks]
    expected = np.concatenate(gaps).mean(axis=0) / cache.statistics["mono"].std
    assert bwe == pytest.approx(expected.tolist(), rel=0.1)


def test_the_sample_depends_on_the_seed_alone(cache: LatentCache) -> None:
    first = measure(cache, windows=50, seed=3)
    assert first == measure(cache, windows=50, seed=3)
    assert first["streams"] != measure(cache, windows=50, seed=4)["streams"]
    assert first["window_frames"] == WINDOW_FRAMES


def test_windows_are_drawn_from_the_whole_of_every_track_that_is_long_enough(
    cache: LatentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channel 0 of write_cache numbers the track and channel 1 the frame."""
    gathered = []
    true = cache.gather

    def gather(addresses: np.ndarray, *, num_frames: int) -> object:
        windows = true(addresses, num_frames=num_frames)
        gathered.append(windows.numpy())
        return windows

    monkeypatch.setattr(cache, "gather", gather)
    measure(cache, windows=600, seed=0)
    assert all((np.diff(windows[..., 0], axis=1) == 0).all() for windows in gathered), "a window lies in one track"
    assert all((np.diff(windows[..., 1], axis=1) == 1).all() for windows in gathered)
    firsts = {(int(track), int(frame)) for windows in gathered for track, frame in windows[:, 0, :2]}
    lengths = [track.num_frames for track in cache.tracks if track.split == "train"]
    for number, length in enumerate(lengths):
        starts = [frame for track, frame in firsts if track == number]
        if length < WINDOW_FRAMES:
            assert not starts or number in (0, 1)  # the valid split has a track 0 of 150 and a track 1 of 100 frames
        elif number > 1:
            assert {0, length - WINDOW_FRAMES} <= set(starts)


def test_only_short_tracks_make_shorter_windows(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "cache", train_frames=(5, 9), valid_frames=(3,)))
    measured = measure(cache, windows=20, seed=0)
    assert measured["window_frames"] == 9
    json.dumps(measured)


def test_the_summary_and_its_lines(cache: LatentCache) -> None:
    summary = summarise(cache)
    assert summary["tracks"] == {"train": 6, "valid": 2}
    assert summary["track_seconds"]["most"] == pytest.approx(200 / float(SPEC.frame_rate), abs=0.01)
    assert summary["statistics"]["mono"]["mean"] == cache.statistics["mono"].mean.tolist()
    lines = list(report(summary, cache.tracks, frame_rate=float(SPEC.frame_rate)))
    assert "tracks: train 6, valid 2" in lines
    assert lines[-1].split() == ["valid", "2.3", "s", "22050", "Hz", "side/mid", "0.0", "dB", "bwe,m2s", "valid-1"]


def test_spread_of_what_is_known() -> None:
    assert spread([3, None, 1, 2]) == {"least": 1, "p10": 1.2, "median": 2, "p90": 2.8, "most": 3}
    assert spread([None]) == {}


# Pictures


def unknown(cache: LatentCache) -> LatentCache:
    """As of imported latents: bandwidth and width not known, no task served; and a name that is no formula."""
    cache.tracks = tuple(replace(track, bandwidth_hz=None, side_mid_db=None, tasks=()) for track in cache.tracks)
    cache.streams = ("right",)
    cache.statistics = {"right": cache.statistics["right"]}
    cache.spec = replace(cache.spec, autoencoder="a$b_$c")
    return cache


def require_pictures(folder: Path) -> None:
    from PIL import Image

    assert sorted(path.name for path in folder.iterdir()) == ["channels.png", "corpus.png", "latents.png"]
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert picture.width == 1440
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_the_pictures_of_an_odd_cache(cache: LatentCache, tmp_path: Path) -> None:
    odd = unknown(cache)
    draw(odd, measure(odd, windows=20, seed=0), tmp_path / "pictures")
    require_pictures(tmp_path / "pictures")


def test_the_command_line_measures_and_draws(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "cache")
    done = CliRunner().invoke(
        app, ["inspect", str(path), "--json", "--plots", str(tmp_path / "plots"), "--windows", "10", "--seed", "5"]
    )
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["measured"]["windows"], summary["measured"]["seed"]) == (10, 5)
    require_pictures(tmp_path / "plots")
    plain = CliRunner().invoke(app, ["inspect", str(path)])
    assert "tracks: train 6, valid 2" in plain.stdout
    assert "measured" not in plain.stdout
