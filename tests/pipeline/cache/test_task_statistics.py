"""Statistics of the tracks that a task trains on, and of channels that never change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reencoder_pipeline.cache.channel_sums import moments, sum_frames
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.exchange.convert import convert_cache
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.shards.record import parse_record, write_record
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.normalisation import Normalisation
from tiny_build import Built, build


@pytest.fixture(scope="module")
def mixed(music: Path, tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tracks of which some serve both tasks and some only one or none, as measured."""
    out = tmp_path_factory.mktemp("mixed") / "cache"
    build(music, out, tiny_autoencoder)
    return out


def expected(cache: LatentCache, task: str, stream: str) -> tuple[np.ndarray, np.ndarray]:
    tracks = [track for track in cache.tracks if track.split == "train" and task in track.tasks]
    frames = np.concatenate([cache.read(track, stream) for track in tracks]).astype(np.float64)
    return frames.mean(axis=0), frames.std(axis=0)


@pytest.mark.parametrize("task", ["bwe", "m2s"])
def test_a_task_is_normalised_by_its_own_tracks(mixed: Path, task: str) -> None:
    cache = open_cache(mixed)
    statistics = cache.statistics_of(get_task(task))
    assert statistics is not None
    served = {track.id for track in cache.tracks if track.split == "train" and task in track.tasks}
    assert served != {track.id for track in cache.tracks if track.split == "train"}
    for stream in cache.streams:
        mean, std = expected(cache, task, stream)
        np.testing.assert_allclose(statistics[stream].mean, mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(statistics[stream].std, std, rtol=1e-4)


def test_where_all_tracks_serve_a_task_nothing_changes(built: Built, music: Path, tiny_autoencoder: Path,
    tmp_path: Path) -> None:  # fmt: skip
    build(music, tmp_path / "cache", tiny_autoencoder, tasks=["bwe", "m2s"])
    cache = open_cache(tmp_path / "cache")
    assert cache.statistics_of(get_task("bwe")) is cache.statistics
    assert "sums" not in json.loads((tmp_path / "cache" / "index.json").read_text())


def test_conversions_keep_the_sums(mixed: Path, tmp_path: Path) -> None:
    convert_cache(mixed, tmp_path / "out", storage="webdataset", progress=lambda done, total: None)
    ours, theirs = (json.loads((path / "index.json").read_text())["sums"] for path in (mixed, tmp_path / "out"))
    assert ours == theirs
    assert verify_cache(open_cache(tmp_path / "out")) == verify_cache(open_cache(mixed))


@pytest.mark.parametrize("field", ["total", "count"])
def test_verify_compares_the_sums(mixed: Path, tmp_path: Path, field: str) -> None:
    cache = Path(shutil.copytree(mixed, tmp_path / "cache"))
    index = json.loads((cache / "index.json").read_text())
    sums = index["sums"][0]["streams"]["mono"]
    sums[field] = sums[field] + 1 if field == "count" else [value + 1e4 for value in sums[field]]
    del index["digest"]
    (cache / "index.json").write_text(json.dumps({**index, "digest": canonical_digest(index)}))
    damages = [finding for finding in verify_cache(open_cache(cache)) if finding.severity == "damage"]
    assert [finding.check for finding in damages] == ["statistics"]


def test_an_older_cache_falls_back(mixed: Path, music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    """Its records hold the sums of the train split alone, and its index none apart."""
    cache = Path(shutil.copytree(mixed, tmp_path / "cache"))
    for file in (cache / "shards").glob("*.json"):
        record = parse_record(file.read_bytes())
        assert record is not None
        for name in [name for name in record.sums if ":" in name]:
            del record.sums[name]
        write_record(cache, record)
    build(music, cache, tiny_autoencoder)
    opened = open_cache(cache)
    task_sums = json.loads((cache / "index.json").read_text()).get("sums")
    assert (opened.statistics_of(get_task("bwe")) is None) == (task_sums is None)


@pytest.mark.parametrize(("value", "dtype"), [(3.0, "float16"), (0.0, "float32"), (0.1, "float32"), (-1e3, "float32")])
def test_a_channel_that_never_changes_has_deviation_zero(value: float, dtype: str) -> None:
    frames = np.random.default_rng(0).standard_normal((70_000, 3)).astype(dtype)
    frames[:, 1] = value
    found = moments([sum_frames([piece], channels=3) for piece in np.array_split(frames, 7)])
    assert found["std"][1] == 0.0
    np.testing.assert_allclose(found["std"][0], 1.0, rtol=0.02)


@pytest.mark.parametrize("std", [0.0, 1e-4])
def test_a_constant_channel_keeps_its_scale(mixed: Path, tmp_path: Path, std: float) -> None:
    """Older indexes say 1e-4 of it; divided by that, the rounding of a constant would be the largest input."""
    cache = Path(shutil.copytree(mixed, tmp_path / "cache"))
    index = json.loads((cache / "index.json").read_text())
    index["statistics"]["mono"]["std"][0] = std
    index.pop("sums")
    del index["digest"]
    (cache / "index.json").write_text(json.dumps({**index, "digest": canonical_digest(index)}))
    normalisation = Normalisation.of_task(open_cache(cache).statistics, get_task("bwe"))
    assert normalisation.targets.std[0] == 1.0
