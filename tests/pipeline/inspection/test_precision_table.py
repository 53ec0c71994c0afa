"""What a storage precision costs: known bytes and errors, distances that are the evaluation's, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from reencoder_eval.metrics.spectral import mel_distance, stft_distance
from reencoder_pipeline.audio.mel import mel_filterbanks
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.cache.formats.int8 import dequantised, quantised, scale_of
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app
from reencoder_pipeline.errors import AutoencoderError, CacheError
from reencoder_pipeline.inspection import precision_table as table_of
from reencoder_pipeline.inspection.precision_table import (
    BYTES,
    _excerpts,
    as_stored,
    distances,
    its_autoencoder,
    precision_table,
    reading_speeds,
    report,
)
from tiny_build import music as render
from tiny_cache import write_cache

RATE = 44_100


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and reading is timed no longer than it takes to run at all."""
    monkeypatch.setattr(table_of, "BLOCK_SECONDS", 0.0)
    monkeypatch.setattr(table_of, "POOL_BYTES", 1 << 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


@pytest.fixture
def cache(built: Callable[[str], Path]) -> LatentCache:
    return open_cache(built("zarr"))


# Values


def test_int8_rounds_to_even_clips_and_leaves_silent_channels_alone() -> None:
    frames = np.array([[127.0, 0.0, -254.0], [0.5, 0.0, 3.0], [1.5, 0.0, 5.0], [-2.5, 0.0, 0.0]], dtype=np.float16)
    scale = scale_of(frames)
    assert scale.dtype == np.float32
    assert scale.tolist() == [1, 1, 2]
    values = quantised(frames, scale)
    assert values.dtype == np.int8
    assert values.tolist() == [[127, 0, -127], [0, 0, 2], [2, 0, 2], [-2, 0, 0]]
    assert quantised(np.array([[500.0, 1.0, -999.0]]), scale).tolist() == [[127, 1, -127]]
    assert dequantised(values, scale)[:, 2].tolist() == [-254, 4, 4, 0]


def test_a_track_quantised_again_stays_what_it_is() -> None:
    frames = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32) * np.logspace(-3, 3, 8)
    scale = scale_of(frames)
    once = dequantised(quantised(frames, scale), scale)
    assert np.array_equal(quantised(once, scale_of(once)), quantised(frames, scale))


def test_what_is_read_back_of_every_precision() -> None:
    latents, scale = np.array([[1 + 2**-9, 1 + 2**-12]], dtype=np.float32), np.array([0.5, 0.25], dtype=np.float32)
    assert as_stored(latents, "float32", scale=scale).tolist() == [[1 + 2**-9, 1 + 2**-12]]
    assert as_stored(latents, "float16", scale=scale).tolist() == [[1 + 2**-9, 1]]
    assert as_stored(latents, "bfloat16", scale=scale).tolist() == [[1, 1]]
    assert as_stored(latents * 10, "int8", scale=scale).tolist() == [[10, 10]]


# Distances


@pytest.mark.parametrize("level", [0.5, 1e-4, 0.0], ids=["loud", "at the floor", "silent estimate"])
def test_distances_are_those_of_the_evaluation(level: float) -> None:
    reference = render(seconds=1.0, seed=1)
    estimate = (level * (reference + 0.1 * render(seconds=1.0, seed=2))).astype(np.float32)
    found = distances(estimate, reference, filterbanks=mel_filterbanks(RATE))
    expected = [
        (stft_distance(x, y), mel_distance(x, y, sample_rate=RATE)) for x, y in zip(estimate, reference, strict=True)
    ]
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-5)


def test_beside_silence_there_is_no_distance() -> None:
    audio = render(seconds=0.5)
    quiet = np.stack([audio[0], 0.001 * audio[1]])
    assert len(distances(audio, quiet, filterbanks=mel_filterbanks(RATE))) == 1


# Excerpts


def test_excerpts_encoded_anew_are_those_of_the_cache(cache: LatentCache, tiny: Autoencoder, music: Path) -> None:
    anew, there = (
        list(_excerpts(cache, tiny, source, 5, 1.0, 3, lambda done, total: None)) for source in (music, None)
    )
    assert len(anew) == 5 * len(cache.streams)
    for one, other in zip(anew, there, strict=True):
        inner = slice(one.first, one.last)
        assert one.latents[inner] == pytest.approx(other.latents[inner], abs=2e-3)
        assert one.audio is not None
        assert 0 <= (inner.stop - inner.start) * cache.spec.hop - one.audio.shape[1] < cache.spec.hop
    assert any(one.first for one in anew), "some begin within a track"


# The table


def test_bytes_and_errors_of_the_table(cache: LatentCache, tiny: Autoencoder, music: Path) -> None:
    table = precision_table(cache, tiny, source=music, excerpts=3, seconds=1.0, seed=0)
    rows = {row["precision"]: row for row in table["rows"]}
    assert list(rows) == list(BYTES)
    assert table["exact"] == "float32"
    per_hour = 3600 * RATE / cache.spec.hop * cache.spec.channels
    assert rows["float16"]["gigabytes_stream"] == pytest.approx(2 * 1000 * per_hour / 1e9)
    assert rows["int8"]["gigabytes_cache"] == pytest.approx(rows["float32"]["gigabytes_stream"])  # 4 streams of 1 byte
    exact = [name for name in rows["float32"] if name.startswith(("latent", "decoded"))]
    assert [rows["float32"][name] for name in exact] == pytest.approx([0, 0, 0, 0], abs=1e-9)
    for name in exact:
        assert 0 < rows["float16"][name] < rows["bfloat16"][name] < rows["int8"][name]
    assert all(row["original_stft_d"] > row["decoded_stft_d"] for row in table["rows"])
    assert rows["float16"]["read_share"] == 1
    assert (rows["float16"]["can_be_built"], rows["bfloat16"]["can_be_built"]) == (True, False)


def test_the_error_of_int8_is_that_of_a_uniform_quantiser(cache: LatentCache, tiny: Autoencoder) -> None:
    table = precision_table(cache, tiny, source=None, excerpts=5, seconds=1.0, seed=0)
    steps = [
        scale_of(cache.read(track, stream)) / cache.statistics[stream].std
        for track in cache.tracks
        for stream in cache.streams
    ]
    (row,) = (row for row in table["rows"] if row["precision"] == "int8")
    assert row["latent_rms"] == pytest.approx(np.sqrt(np.mean(np.square(steps)) / 12), rel=0.25)
    assert row["latent_largest"] <= np.max(steps) / 2 * 1.001


def test_without_a_source_finer_rows_are_unknown(cache: LatentCache, tiny: Autoencoder) -> None:
    table = precision_table(cache, tiny, source=None, excerpts=1, seconds=1.0, seed=0)
    first, second, third, _ = table["rows"]
    assert table["exact"] == "float16"
    assert first["latent_rms"] is None
    assert first["decoded_mel_d"] is None
    assert second["latent_rms"] == 0
    assert third["latent_rms"] > 0
    assert {row["original_stft_d"] for row in table["rows"]} == {None}
    lines = list(report(table))
    assert "--source" in lines[0]
    assert lines[3].split() == ["float32", *lines[3].split()[1:3], "-", "-", "-", "-", "-", "-", lines[3].split()[-1]]


def test_speeds_are_shares_of_float16() -> None:
    speeds = reading_speeds(8, seed=0)
    assert list(speeds) == list(BYTES)
    assert speeds["float16"][1] == 1
    assert all(speed > 0 and share > 0 for speed, share in speeds.values())


# The command


def test_the_command(built: Callable[[str], Path], music: Path, tiny: Autoencoder, tiny_autoencoder: Path) -> None:
    place = built("webdataset")
    line = ["precision", str(place), "--source", str(music), "--autoencoder", str(tiny_autoencoder), "--excerpts", "1"]
    done = CliRunner().invoke(app, [*line, "--seconds", "0.5", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    again = precision_table(open_cache(place), tiny, source=music, excerpts=1, seconds=0.5, seed=0)
    for row in (*found["rows"], *again["rows"]):
        del row["windows_per_second"], row["read_share"]
    assert found == again


def test_the_autoencoder_has_to_be_the_caches_own(cache: LatentCache, tmp_path: Path, tiny_autoencoder: Path) -> None:
    with pytest.raises(AutoencoderError, match="--autoencoder NAME"):
        its_autoencoder(cache, None)
    with pytest.raises(CacheError, match="different autoencoders"):
        its_autoencoder(open_cache(write_cache(tmp_path)), str(tiny_autoencoder))
