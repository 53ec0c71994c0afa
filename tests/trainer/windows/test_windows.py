"""Windows: a pure function of (seed, step), inside their tracks, the same for any number of processes or read ahead."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.tasks import get_task
from reencoder_pipeline.training.ranks import Ranks
from reencoder_trainer.windows.draws import draw_windows
from reencoder_trainer.windows.mapped_windows import WindowLoader
from reencoder_trainer.windows.read_ahead import ReadAhead
from tiny_cache import write_cache

SEEDS = st.integers(0, 2**63 - 1)
STEPS = st.integers(0, 10**9)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    return open_cache(write_cache(tmp_path_factory.mktemp("windows") / "cache"))


def make_loader(cache: LatentCache, *, num_frames: int = 60, seed: int = 0, task: str = "m2s") -> WindowLoader:
    return WindowLoader(cache, get_task(task), split="train", num_frames=num_frames, seed=seed)


@given(positions=st.lists(st.integers(1, 10**7), min_size=1, max_size=50), seed=SEEDS, step=STEPS)
def test_every_draw_is_a_position_of_its_track(positions: list[int], seed: int, step: int) -> None:
    counts = np.array(positions)
    tracks, starts = draw_windows(counts, seed=seed, step=step, batch_size=32)
    assert ((tracks >= 0) & (tracks < len(counts))).all()
    assert ((starts >= 0) & (starts < counts[tracks])).all()


@given(seed=SEEDS, step=STEPS)
def test_draws_are_a_function_of_seed_and_step(seed: int, step: int) -> None:
    def draw(seed: int, step: int) -> list[int]:
        return draw_windows(np.array([10**9]), seed=seed, step=step, batch_size=16)[1].tolist()

    first = draw(seed, step)
    others = [draw(seed, step + 1), draw(seed ^ 1, step)]
    assert draw(seed, step) == first
    assert first not in others


def test_draws_are_what_they_were() -> None:
    """Golden: a released module's `seed` names these batches, on any machine and any version of numpy."""
    tracks, starts = draw_windows(np.array([10, 1000, 100]), seed=1, step=2, batch_size=6)
    assert (tracks.tolist(), starts.tolist()) == ([1, 1, 2, 2, 1, 1], [387, 600, 13, 54, 603, 534])


def test_every_position_is_equally_likely() -> None:
    positions = np.array([1, 3, 6])
    draws = [draw_windows(positions, seed=0, step=step, batch_size=1000) for step in range(50)]
    tracks, starts = (np.concatenate(values) for values in zip(*draws, strict=True))
    counts = np.bincount((np.cumsum(positions) - positions)[tracks] + starts, minlength=10)
    # 50,000 draws on 10 positions: a standard deviation of 67 around 5,000.
    assert np.abs(counts - 5_000).max() < 5 * 67


@settings(max_examples=40, deadline=None)
@given(num_frames=st.integers(1, 200), seed=SEEDS, step=STEPS)
def test_windows_are_consecutive_frames_of_one_track_in_all_streams(
    cache: LatentCache, num_frames: int, seed: int, step: int
) -> None:
    batch = make_loader(cache, num_frames=num_frames, seed=seed).batch(step, batch_size=8)
    assert set(batch) == {"mono", "left", "right"}
    for window in batch.values():
        assert window.shape == (8, num_frames, cache.spec.channels)
        assert window.dtype == torch.float16
        assert (window[:, :, 0] == window[:, :1, 0]).all()
        assert (window[:, 1:, 1] - window[:, :-1, 1] == 1).all()
        assert torch.equal(window[:, :, :2], batch["mono"][:, :, :2])


@settings(max_examples=20, deadline=None)
@given(world_size=st.sampled_from([1, 2, 3, 4, 6, 12]), step=STEPS)
def test_any_world_size_sees_the_same_global_batch(cache: LatentCache, world_size: int, step: int) -> None:
    loader = make_loader(cache)
    whole = loader.batch(step, batch_size=12)
    slices = [loader.batch(step, batch_size=12, rank=rank, world_size=world_size) for rank in range(world_size)]
    for stream, windows in whole.items():
        assert torch.equal(torch.cat([part[stream] for part in slices]), windows)


def test_batches_do_not_depend_on_the_order_of_calls(cache: LatentCache) -> None:
    forwards, backwards = make_loader(cache), make_loader(cache)
    in_order = [forwards.batch(step, batch_size=4)["mono"] for step in range(6)]
    reverse = [backwards.batch(step, batch_size=4)["mono"] for step in reversed(range(6))]
    assert all(torch.equal(a, b) for a, b in zip(in_order, reversed(reverse), strict=True))
    assert not torch.equal(in_order[0], in_order[1])


@pytest.mark.parametrize("hold", [dict, lambda b: b["mono"], lambda b: b["mono"][1:, :2], lambda b: b["mono"].numpy()])
def test_a_batch_is_never_written_over_while_any_part_of_it_is_held(cache: LatentCache, hold: Any) -> None:
    loader = make_loader(cache)
    held = [hold(loader.batch(step, batch_size=4)) for step in range(7)]
    for step, part in enumerate(held):
        expected = hold(make_loader(cache).batch(step, batch_size=4))
        same = zip(*(one.values() if isinstance(one, dict) else [one] for one in (part, expected)), strict=True)
        assert all(np.array_equal(one, other) for one, other in same)


def test_threads_do_not_share_the_memory_of_a_batch(cache: LatentCache) -> None:
    """A training's reader and its validation draw from one cache."""
    expected = [make_loader(cache).batch(step, batch_size=4)["mono"].clone() for step in range(50)]

    def draw(_: int) -> bool:
        loader = make_loader(cache)
        return all(torch.equal(loader.batch(step, batch_size=4)["mono"], expected[step]) for step in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(draw, range(8)))


def test_tracks_shorter_than_a_window_are_counted(cache: LatentCache) -> None:
    loader = make_loader(cache, num_frames=100)
    assert (loader.num_tracks, loader.too_short) == (3, 3)
    assert loader.num_windows == (200 - 99) + (150 - 99) + (120 - 99)


def test_no_track_as_long_as_a_window_is_an_error(cache: LatentCache) -> None:
    with pytest.raises(CacheError, match=r"no track of the train split.*\n.*none as long as a window of 4\.6"):
        make_loader(cache, num_frames=201)


def test_a_batch_must_divide_among_the_processes(cache: LatentCache) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        make_loader(cache).batch(0, batch_size=8, rank=0, world_size=3)


def ahead(loader: WindowLoader, *, depth: int, rank: int = 0, world_size: int = 1, steps: int = 9) -> ReadAhead:
    return ReadAhead(loader, 4, ranks=Ranks(rank, world_size, torch.device("cpu")), depth=depth, steps=steps)


@pytest.mark.parametrize("depth", [0, 2, 20])
@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize("rank", [0, 1])
def test_batches_read_ahead_are_the_same_in_order_from_any_step(
    depth: int, first: int, rank: int, cache: LatentCache
) -> None:
    loader = make_loader(cache)
    with ahead(loader, depth=depth, rank=rank, world_size=2) as batches:
        for step in range(first, 9):
            expected = loader.batch(step, batch_size=4, rank=rank, world_size=2)
            batch = batches.batch(step)
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[stream], expected[stream]) for stream in expected)


def test_it_reads_depth_batches_ahead_each_once_and_none_after_the_last_step(
    cache: LatentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, read = make_loader(cache), []
    original = loader.batch

    def batch(step: int, **slicing: int) -> dict[str, torch.Tensor]:
        read.append(step)
        return original(step, **slicing)

    monkeypatch.setattr(loader, "batch", batch)
    with ahead(loader, depth=2, steps=6) as batches:
        batches.batch(1)
        wait_until_read(read, 3)
        time.sleep(0.05)  # time for one too many
        assert read == [1, 2, 3]
        for step in range(2, 6):
            batches.batch(step)
    assert read == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_of_the_reader_comes_at_its_step_and_the_thread_ends(
    depth: int, cache: LatentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make_loader(cache)
    original, before = loader.batch, set(threading.enumerate())

    def batch(step: int, **slicing: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise CacheError("a shard is gone")
        return original(step, **slicing)

    monkeypatch.setattr(loader, "batch", batch)
    with ahead(loader, depth=depth) as batches:
        for step in range(3):
            batches.batch(step)
        assert len(set(threading.enumerate()) - before) == (depth > 0)
        with pytest.raises(CacheError, match="a shard is gone"):
            batches.batch(3)
    assert set(threading.enumerate()) <= before


def wait_until_read(read: list[int], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(read) < count:
        assert time.monotonic() < deadline, "nothing is read ahead"
        time.sleep(0.005)
