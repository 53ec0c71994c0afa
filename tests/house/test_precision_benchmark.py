"""The benchmark of stored types on a tiny cache: known bytes and errors, and that its excerpts are the cache's."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.cache.formats.int8 import scale_of
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from tiny_build import music as render

RATE = 44_100


@pytest.fixture(scope="module")
def benchmark() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        return importlib.import_module("precision")


@pytest.fixture(scope="module")
def tiny(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


@pytest.fixture
def cache(built: Callable[[str], Path]) -> LatentCache:
    return open_cache(built("zarr"))


def quick_speeds(benchmark: Any) -> dict[str, tuple[float, float]]:
    return benchmark.reading_speeds(8, pool_bytes=1 << 16, plan=benchmark.Plan(seconds=0, rounds=1, steps=2))


def test_what_is_read_back_of_every_type(benchmark: Any) -> None:
    latents, scale = np.array([[1 + 2**-9, 1 + 2**-12]], dtype=np.float32), np.array([0.5, 0.25], dtype=np.float32)
    assert benchmark.as_stored(latents, "float32", scale=scale).tolist() == [[1 + 2**-9, 1 + 2**-12]]
    assert benchmark.as_stored(latents, "float16", scale=scale).tolist() == [[1 + 2**-9, 1]]
    assert benchmark.as_stored(latents, "bfloat16", scale=scale).tolist() == [[1, 1]]
    assert benchmark.as_stored(latents * 10, "int8", scale=scale).tolist() == [[10, 10]]


def test_beside_silence_there_is_no_distance(benchmark: Any) -> None:
    audio = render(seconds=0.5)
    quiet = np.stack([audio[0], 0.001 * audio[1]])
    assert len(benchmark.distances(audio, quiet, sample_rate=RATE)) == 1


def test_excerpts_encoded_again_are_those_of_the_cache(
    benchmark: Any, cache: LatentCache, tiny: Autoencoder, music: Path
) -> None:
    again, there = (
        list(benchmark.excerpts(cache, tiny, source=source, number=5, seconds=1.0, seed=3)) for source in (music, None)
    )
    assert len(again) == 5 * len(cache.streams)
    for one, other in zip(again, there, strict=True):
        inner = slice(one.first, one.last)
        assert one.latents[inner] == pytest.approx(other.latents[inner], abs=2e-3)
        assert 0 <= (inner.stop - inner.start) * cache.spec.hop - one.audio.shape[1] < cache.spec.hop
    assert any(one.first for one in again), "some begin within a track"


def test_without_a_source_finer_rows_are_unknown_and_int8_errs_as_a_quantiser(
    benchmark: Any, cache: LatentCache, tiny: Autoencoder
) -> None:
    found = benchmark.excerpts(cache, tiny, source=None, number=5, seconds=1.0, seed=0)
    rows = benchmark.precision_rows(cache, tiny, found, exact="float16", speeds=quick_speeds(benchmark))
    first, second, third, last = rows
    assert (first["latent_rms"], first["decoded_mel_d"]) == (None, None)
    assert second["latent_rms"] == 0 < third["latent_rms"]
    assert {row["original_stft_d"] for row in rows} == {None}
    steps = [
        scale_of(cache.read(track, stream)) / cache.statistics[stream].std
        for track in cache.tracks
        for stream in cache.streams
    ]
    assert last["latent_rms"] == pytest.approx(np.sqrt(np.mean(np.square(steps)) / 12), rel=0.25)
    assert last["latent_largest"] <= np.max(steps) / 2 * 1.001
    line = list(benchmark.table(rows))[2].split()
    assert line == ["float32", *line[1:3], "-", "-", "-", "-", "-", "-", line[-1]]


@pytest.mark.slow
def test_the_command(
    benchmark: Any,
    built: Callable[[str], Path],
    music: Path,
    tiny_autoencoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    speeds = quick_speeds(benchmark)
    monkeypatch.setattr(benchmark, "reading_speeds", lambda channels: speeds)
    line = [str(built("webdataset")), "--source", str(music), "--autoencoder", str(tiny_autoencoder), "--json"]
    monkeypatch.setattr("sys.argv", ["precision.py", *line, "--excerpts", "3", "--seconds", "1"])
    benchmark.main()
    found = json.loads(capsys.readouterr().out)
    rows = {row["precision"]: row for row in found["rows"]}
    assert (found["exact"], list(rows)) == ("float32", ["float32", "float16", "bfloat16", "int8"])
    spec = load_autoencoder(str(tiny_autoencoder)).spec
    per_hour = 3600 * float(spec.frame_rate) * spec.channels
    assert rows["float16"]["gigabytes_stream"] == pytest.approx(2 * 1000 * per_hour / 1e9)
    assert rows["int8"]["gigabytes_cache"] == pytest.approx(rows["float32"]["gigabytes_stream"])  # 4 streams of 1 byte
    exact = [name for name in rows["float32"] if name.startswith(("latent", "decoded"))]
    assert [rows["float32"][name] for name in exact] == pytest.approx([0, 0, 0, 0], abs=1e-9)
    for name in exact:
        assert 0 < rows["float16"][name] < rows["bfloat16"][name] < rows["int8"][name]
    assert all(row["original_stft_d"] > row["decoded_stft_d"] for row in rows.values())
    assert rows["float16"]["read_share"] == 1
    assert (rows["float16"]["can_be_built"], rows["bfloat16"]["can_be_built"]) == (True, False)
