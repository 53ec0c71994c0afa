"""A pool of shards that slides over the corpus: batches are still a function of (seed, step), and nothing is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import torch
from torch import Tensor

from flaky_network import FlakyNetwork, flaky
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.local_copy import default_root
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.stores import checked_reader as object_reads
from reencoder_pipeline.tasks import get_task
from reencoder_pipeline.training.ranks import Ranks
from reencoder_trainer.windows import pooled_windows as streaming_windows
from reencoder_trainer.windows.pooled_windows import AHEAD, PoolLoader, shard_order
from reencoder_trainer.windows.read_ahead import ReadAhead
from sharded_cache import write_shards
from training_run import assert_same_run, crash, run

__all__ = ["flaky"]

LENGTHS = tuple((100 + 7 * number, 30, 90) for number in range(10))  # 1 in 3 tracks is shorter than a window
FRAMES = 60
POOL = 3
BATCH = 4
STEPS = 33  # 3.6 epochs: 2,215 usable frames are 36.9 windows of 60 end to end, 9.2 batches


@pytest.fixture(scope="module", params=["zarr", "webdataset"])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    return open_cache(write_shards(tmp_path_factory.mktemp("shards") / "cache", LENGTHS, storage=request.param))


@pytest.fixture(scope="module")
def zarr_cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    return open_cache(write_shards(tmp_path_factory.mktemp("shards") / "cache", LENGTHS))


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[..., PoolLoader]:
    """Loaders that are closed at the end of the test."""

    def made(
        cache: LatentCache, *, pool: int = POOL, task: str = "m2s", split: str = "train", seed: int = 0
    ) -> PoolLoader:
        loader = PoolLoader(cache, get_task(task), split=split, num_frames=FRAMES, seed=seed, pool_shards=pool)
        request.addfinalizer(loader.close)
        return loader

    return made


def batches(loader: PoolLoader, first: int, last: int) -> list[dict[str, Tensor]]:
    return [loader.batch(step, batch_size=BATCH) for step in range(first, last)]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def shards_of(batch: dict[str, Tensor]) -> set[int]:
    return set(batch["mono"][:, 0, 0].int().tolist())


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of shards in the order in which they are fetched."""
    fetched: list[str] = []
    original = streaming_windows.read_shard

    def read_shard(reader: object, shard: object, form: object, streams: object) -> object:
        fetched.append(shard.key)  # type: ignore[attr-defined]
        return original(reader, shard, form, streams)  # type: ignore[arg-type]

    monkeypatch.setattr(streaming_windows, "read_shard", read_shard)
    return fetched


# Windows


def test_windows_are_consecutive_frames_of_one_track_in_all_streams(
    cache: LatentCache, make: Callable[..., PoolLoader]
) -> None:
    frames = {(track.shard, track.id): {s: cache.read(track, s) for s in cache.streams} for track in cache.tracks}
    for batch in batches(make(cache), 0, STEPS):
        for stream, windows in batch.items():
            for window in windows.numpy():
                shard, track, first = window[0, :3].astype(int)
                key = f"shard{shard:03d}"
                expected = frames[key, f"{key}-{track}"][stream][first : first + FRAMES]
                assert np.array_equal(window, expected)
            assert torch.equal(windows[:, :, :3], batch["mono"][:, :, :3])


def test_counts_are_those_of_the_mapped_loader(zarr_cache: LatentCache, make: Callable[..., PoolLoader]) -> None:
    loader = make(zarr_cache)
    assert (loader.num_tracks, loader.too_short) == (20, 10)
    assert loader.num_windows == sum(length - 59 for lengths in LENGTHS for length in lengths if length >= 60)


def test_a_batch_comes_out_of_the_pool_and_the_pool_slides(
    zarr_cache: LatentCache, make: Callable[..., PoolLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, loader = spy(monkeypatch), make(zarr_cache)
    orders = [shard_order(10, seed=0, epoch=epoch).tolist() for epoch in range(6)]
    places = [shard for order in orders for shard in order]
    total = sum(length for lengths in LENGTHS for length in lengths if length >= FRAMES)
    for step, batch in enumerate(batches(loader, 0, STEPS)):
        turn = step * BATCH * FRAMES * 10 // total
        assert shards_of(batch) <= set(places[turn : turn + POOL])
    visited = [int(key[5:]) for key in fetched]
    # In the order of the epochs, each shard once an epoch; where it is in the pool still, it is not fetched again.
    assert visited[: 10 - POOL] == orders[0][: 10 - POOL]
    assert sorted(visited[:10]) == list(range(10))
    assert 20 < len(visited) <= turn + POOL + AHEAD


def test_over_epochs_every_shard_is_drawn_from_as_it_has_windows(
    zarr_cache: LatentCache, make: Callable[..., PoolLoader]
) -> None:
    drawn, loader = np.zeros(10), make(zarr_cache)
    for step in range(400):
        numbers = loader.batch(step, batch_size=10)["mono"][:, 0, 0].int().numpy()
        drawn += np.bincount(numbers, minlength=10)
    positions = np.array([sum(length - 59 for length in lengths if length >= 60) for lengths in LENGTHS])
    expected = positions / positions.sum() * drawn.sum()
    # 4,000 draws: 400 a shard, deviation 20; and some per cent for pools of different sizes.
    assert np.abs(drawn - expected).max() < 5 * 20


# A function of (seed, step)


def test_resuming_at_any_step_gives_the_same_batches(cache: LatentCache, make: Callable[..., PoolLoader]) -> None:
    whole = batches(make(cache), 0, STEPS)
    for cut in range(1, STEPS):
        resumed = make(cache)
        assert same(resumed.batch(cut, batch_size=BATCH), whole[cut])
        resumed.close()
    resumed = make(cache)
    assert all(same(*pair) for pair in zip(batches(resumed, 17, STEPS), whole[17:], strict=True))


def test_a_resumed_loader_fetches_what_it_needs_and_no_more(
    zarr_cache: LatentCache, make: Callable[..., PoolLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, loader = spy(monkeypatch), make(zarr_cache)
    loader.batch(10_000, batch_size=BATCH)
    loader.close()
    assert len(fetched) <= POOL + AHEAD


def test_the_order_of_calls_does_not_matter(zarr_cache: LatentCache, make: Callable[..., PoolLoader]) -> None:
    forwards, jumping = make(zarr_cache), make(zarr_cache)
    steps = np.random.default_rng(0).permutation(STEPS).tolist()
    jumped = {step: jumping.batch(step, batch_size=BATCH) for step in steps}
    assert all(same(batch, jumped[step]) for step, batch in enumerate(batches(forwards, 0, STEPS)))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_take_slices_of_the_same_batch(
    world_size: int, zarr_cache: LatentCache, make: Callable[..., PoolLoader]
) -> None:
    whole, ranks = make(zarr_cache), [make(zarr_cache) for _ in range(world_size)]
    for step in (0, 7, 20):
        parts = [
            loader.batch(step, batch_size=BATCH, rank=rank, world_size=world_size) for rank, loader in enumerate(ranks)
        ]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        assert same(joined, whole.batch(step, batch_size=BATCH))


def test_both_storages_hold_the_same_batches(tmp_path: Path, make: Callable[..., PoolLoader]) -> None:
    caches = [open_cache(write_shards(tmp_path / name, LENGTHS, storage=name)) for name in ("zarr", "webdataset")]
    assert all(same(*pair) for pair in zip(*(batches(make(cache), 0, 12) for cache in caches), strict=True))


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = [tuple(shard_order(20, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert shard_order(6, seed=1, epoch=2).tolist() == [
        4,
        5,
        1,
        0,
        2,
        3,
    ]  # a released module's `seed` names these batches


def test_a_pool_for_all_shards_holds_all_and_fetches_each_once(
    zarr_cache: LatentCache, make: Callable[..., PoolLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, loader = spy(monkeypatch), make(zarr_cache, pool=99)
    seen = set().union(*map(shards_of, batches(loader, 0, 60)))
    assert seen == set(range(10))
    assert sorted(fetched) == [f"shard{number:03d}" for number in range(10)]


def test_read_ahead_takes_either_loader(zarr_cache: LatentCache, make: Callable[..., PoolLoader]) -> None:
    expected = batches(make(zarr_cache), 0, 9)
    ahead = ReadAhead(make(zarr_cache), BATCH, ranks=Ranks(0, 1, torch.device("cpu")), depth=2, steps=9)
    with ahead as read:
        assert all(same(read.batch(step), batch) for step, batch in enumerate(expected))


def test_the_valid_split_takes_the_memory_of_its_tracks_alone(tmp_path: Path, make: Callable[..., PoolLoader]) -> None:
    cache = open_cache(write_shards(tmp_path / "cache", LENGTHS, valid=2))
    loaders = {split: make(cache, split=split) for split in ("train", "valid")}
    values = {split: loader._slots.shape[1] for split, loader in loaders.items()}
    assert values == {"train": 3 * 163 * 8, "valid": 3 * 90 * 8}
    assert {int(b["mono"][0, 0, 1]) for b in batches(loaders["valid"], 0, 5)} == {2}


# Errors


def test_threads_end_with_the_loader(zarr_cache: LatentCache, make: Callable[..., PoolLoader]) -> None:
    before = set(threading.enumerate())
    loader = make(zarr_cache)
    loader.batch(0, batch_size=BATCH)
    loader.close()
    assert set(threading.enumerate()) <= before


def test_a_batch_larger_than_the_pool_is_an_error(zarr_cache: LatentCache, make: Callable[..., PoolLoader]) -> None:
    with pytest.raises(ConfigError, match=r"(?s)stream_shards: a batch takes more.*3 shards.*worth 4\.3.*at least 5"):
        make(zarr_cache).batch(0, batch_size=16)


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
def test_a_flipped_bit_anywhere_is_an_error_when_its_shard_is_needed(
    storage: str, tmp_path: Path, make: Callable[..., PoolLoader]
) -> None:
    cache = open_cache(write_shards(tmp_path / "cache", LENGTHS, storage=storage))
    order = shard_order(10, seed=0, epoch=0)
    name = cache.format.data_name(cache.shards[order[POOL]].key, "mono")  # it comes at turn 1
    whole = (tmp_path / "cache" / name).read_bytes()
    generator = np.random.default_rng(0)
    for position in generator.integers(len(whole), size=12):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << generator.integers(8)
        (tmp_path / "cache" / name).write_bytes(damaged)
        loader = make(cache)
        loader.batch(0, batch_size=BATCH)
        with pytest.raises(CacheError, match=f"{name}: a file of the cache is not what the index says"):
            batches(loader, 1, 4)
        (tmp_path / "cache" / name).write_bytes(whole)
        assert shards_of(loader.batch(3, batch_size=BATCH))  # asked again, it is tried again
        loader.close()


def test_an_index_that_lies_about_a_tar_is_an_error(tmp_path: Path, make: Callable[..., PoolLoader]) -> None:
    """Its digests are right, so nobody damaged the file: the index is of another writer."""
    import dataclasses

    cache = open_cache(write_shards(tmp_path / "cache", ((100,),), storage="webdataset"))
    (shard,) = cache.shards
    track = dataclasses.replace(shard.tracks[0], id="another")
    cache.shards = (dataclasses.replace(shard, tracks=(track,)),)
    cache.tracks = (track,)
    with pytest.raises(CacheError, match=r"(?s)not in its format, though its digest is right.*00000_shard000-0"):
        make(cache).batch(0, batch_size=1)


# From object storage


def test_from_object_storage_over_a_bad_network(
    cache: LatentCache,
    s3_bucket: str,
    flaky: FlakyNetwork,
    make: Callable[..., PoolLoader],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(object_reads, "PIECE_BYTES", 10_000)
    s3fs.S3FileSystem().put(f"{cache.path}/", f"{s3_bucket}/cache/", recursive=True)
    away = open_cache(f"{s3_bucket}/cache")
    flaky.cuts = 10
    read = batches(make(away), 5, 12)
    assert all(same(*pair) for pair in zip(read, batches(make(cache), 5, 12), strict=True))
    assert flaky.cuts == 0
    assert not default_root().exists()  # nothing is kept


def test_training_on_a_stream_resumes_to_the_same_weights(
    zarr_cache: LatentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"stream_shards": POOL, "valid_every": 0, "steps": 12, "checkpoint_steps": 4}
    run(zarr_cache.path, tmp_path / "whole", **settings)
    with monkeypatch.context() as broken:
        original = PoolLoader.batch

        def batch(self: PoolLoader, step: int, **slicing: int) -> dict[str, Tensor]:
            return crash() if step == 9 else original(self, step, **slicing)

        broken.setattr(PoolLoader, "batch", batch)
        with pytest.raises(RuntimeError, match="the power is gone"):
            run(zarr_cache.path, tmp_path / "resumed", **settings)
    run(zarr_cache.path, tmp_path / "resumed", resume=True, **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    with pytest.raises(ConfigError, match="stream_shards"):
        run(zarr_cache.path, tmp_path / "resumed", resume=True, **{**settings, "stream_shards": 2})
