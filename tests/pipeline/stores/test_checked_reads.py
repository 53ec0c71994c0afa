"""Checked reads: every flipped bit of a frame is found when it is first gathered, and named. Cold pages: read ahead."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reencoder_pipeline.cache.formats.zarr_shards import CHUNK_FRAMES, data_file
from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.windows.mapped_windows import WindowLoader
from sharded_cache import write_shards
from tar_members import members_in
from tiny_cache import SPEC

# The first shard's blocks begin and end within tracks, one block holds three of them, and its last is short.
LENGTHS = ((700, 500, 300, 2000), (1024,), (90,))
STORAGES = ["zarr", "webdataset"]
FRAME_BYTES = SPEC.channels * 2


@pytest.fixture(scope="module", params=STORAGES)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("checked") / "cache", LENGTHS, storage=request.param)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "cache"))


def place_of(cache: LatentCache, track: CachedTrack, stream: str) -> tuple[Path, int]:
    """The file that a track's frames are in, and the byte where they begin."""
    if cache.storage == "zarr":
        return data_file(cache.path / "shards" / track.shard, stream), track.first_frame * FRAME_BYTES
    file = cache.path / "shards" / f"{track.shard}.tar"
    number = [other for shard in cache.shards for other in shard.tracks if other.shard == track.shard].index(track)
    (member,) = (
        m for name, m in members_in(file).items() if name.startswith(f"{number:05d}_") and f".{stream}." in name
    )
    return file, member.offset


def flip(file: Path, position: int, bit: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        value = opened.read(1)[0]
        opened.seek(position)
        opened.write(bytes([value ^ 1 << bit]))


def read_all(cache: LatentCache, stream: str) -> None:
    for track in cache.tracks:
        cache.read(track, stream)


def test_a_sound_cache_reads_the_same(sound: Path) -> None:
    plain, checked = open_cache(sound), open_cache(sound, checked=True)
    for stream in plain.streams:
        for track in plain.tracks:
            assert np.array_equal(checked.read(track, stream), plain.read(track, stream))
    loaders = [WindowLoader(cache, get_task("m2s"), split="train", num_frames=60, seed=0) for cache in (plain, checked)]
    for step in range(20):
        ours, theirs = (loader.batch(step, batch_size=16) for loader in loaders)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_flipped_bit_is_found_by_the_window_that_holds_it(folder: Path) -> None:
    """And by no window of other blocks; unchecked, none is."""
    generator = np.random.default_rng(0)
    index = open_cache(folder)
    for _ in range(60):
        track = index.tracks[generator.integers(len(index.tracks))]
        stream = str(generator.choice(index.streams))
        frame = int(generator.integers(track.num_frames))
        file, begin = place_of(index, track, stream)
        place = begin + frame * FRAME_BYTES + int(generator.integers(FRAME_BYTES)), int(generator.integers(8))
        flip(file, *place)
        block = (track.first_frame + frame) // CHUNK_FRAMES * CHUNK_FRAMES
        said = rf"(?s){track.shard}: frames of the cache are.*stream {stream}, frames {block} to"
        with pytest.raises(CacheError, match=said):
            window(open_cache(folder, checked=True), track, stream, frame)
        window(open_cache(folder), track, stream, frame)
        cache = open_cache(folder, checked=True)
        for other in cache.tracks:
            if (other.shard, other.first_frame // CHUNK_FRAMES * CHUNK_FRAMES) != (track.shard, block):
                window(cache, other, stream, 0)
        flip(file, *place)
    read_all(open_cache(folder, checked=True), "left")


def window(cache: LatentCache, track: CachedTrack, stream: str, frame: int) -> None:
    cache.gather(cache.addresses([track], stream) + frame * SPEC.channels, num_frames=1)


@pytest.mark.parametrize("num_frames", [1, 2, 1023, 1024, 1025, 1500])
def test_a_window_is_checked_in_all_its_blocks(folder: Path, num_frames: int) -> None:
    """One bit in the last frame of a window, which may lie one or two blocks behind its first."""
    cache = open_cache(folder)
    track = cache.tracks[3]  # 2,000 frames, from frame 1,500 of the shard
    file, begin = place_of(cache, track, "mono")
    for start in (0, 400, 2000 - num_frames):
        last = begin + (start + num_frames - 1) * FRAME_BYTES
        flip(file, last, 3)
        checked = open_cache(folder, checked=True)
        address = checked.addresses([track], "mono") + start * SPEC.channels
        with pytest.raises(CacheError, match="frames of the cache are not what was written"):
            checked.gather(address, num_frames=num_frames)
        flip(file, last, 3)


def test_padding_is_nobodys_business(folder: Path) -> None:
    cache = open_cache(folder)
    if cache.storage == "zarr":
        flip(data_file(folder / "shards" / "shard002", "mono"), 91 * FRAME_BYTES, 0)
    else:
        flip(folder / "shards" / "shard002.tar", (folder / "shards" / "shard002.tar").stat().st_size - 1, 0)
    read_all(open_cache(folder, checked=True), "mono")


def test_a_block_is_checked_once(folder: Path) -> None:
    """What changes after that is not noticed: the price of checks that cost nothing from the second epoch on."""
    cache = open_cache(folder, checked=True)
    read_all(cache, "mono")
    flip(*place_of(cache, cache.tracks[0], "mono"), 0)
    read_all(cache, "mono")
    with pytest.raises(CacheError, match="not what was written"):
        read_all(open_cache(folder, checked=True), "mono")


def test_damage_is_found_again_by_who_asks_again(folder: Path) -> None:
    cache = open_cache(folder, checked=True)
    flip(*place_of(cache, cache.tracks[0], "mono"), 0)
    for _ in range(2):
        with pytest.raises(CacheError, match="frames of the cache are not what was written"):
            cache.read(cache.tracks[0], "mono")
    cache.read(cache.tracks[0], "left")


def test_an_index_without_checksums_is_an_error(folder: Path) -> None:
    change_index(folder, lambda shard: shard["blocks"].pop("mono"))
    with pytest.raises(CacheError, match=r"(?s)the index is damaged.*blocks"):
        open_cache(folder)


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """To the first shard."""
    index = json.loads((folder / "index.json").read_text())
    del index["digest"]
    change(index["shards"][0])
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("change", [{"first_frame": -1}, {"first_frame": 10**9}, {"num_frames": 10**9}])
def test_an_index_does_not_reach_out_of_its_shards(folder: Path, change: dict[str, int]) -> None:
    """What is gathered from there could be another file's, or end the process."""
    change_index(folder, lambda shard: shard["tracks"][0].update(change))
    with pytest.raises(CacheError, match=r"(?s)the index is damaged.*first_frame"):
        open_cache(folder)


# Larger than memory


@pytest.mark.parametrize("kernel", ["this", "without pidfd_open"])
def test_reading_ahead_changes_nothing(kernel: str, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel != "this":
        monkeypatch.setattr(os, "pidfd_open", refused)
    cache = open_cache(sound)
    addresses = cache.addresses(cache.tracks[:3], "mono")
    cache.read_ahead(addresses, num_frames=60)
    windows = cache.gather(addresses, num_frames=60)
    for window, track in zip(windows, cache.tracks, strict=False):
        assert np.array_equal(window.numpy(), cache.read(track, "mono")[:60])


def refused(*_: object) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_memory_that_was_just_read_is_not_cold(sound: Path) -> None:
    for _ in range(2):
        cache = open_cache(sound)
        read_all(cache, "mono")
        cache.gather(cache.addresses(cache.tracks[:3], "mono"), num_frames=60)
    assert not cache.is_cold


def test_elsewhere_than_on_linux_files_are_read(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {track.id: open_cache(sound).read(track, "mono") for track in open_cache(sound).tracks}
    monkeypatch.setattr("sys.platform", "darwin")
    cache = open_cache(sound)
    assert all(np.array_equal(cache.read(track, "mono"), expected[track.id]) for track in cache.tracks)
