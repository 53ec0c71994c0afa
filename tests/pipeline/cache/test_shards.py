"""One contract for both kinds of shards: what was written is what is read, by us and by anyone else."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from reencoder_pipeline.cache.address_range import AddressRange
from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.tar_shards import promised_members, read_members, sample_key, write_tar_shard
from reencoder_pipeline.cache.formats.zarr_description import require_own_format
from reencoder_pipeline.cache.formats.zarr_shards import CHUNK_FRAMES, data_file, is_linear, write_zarr_shard
from reencoder_pipeline.cache.index import CachedTrack, Shard, shard_to_dict
from reencoder_pipeline.cache.index_schema import require_record
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec

STORAGES = ["zarr", "webdataset"]
STREAMS = ("mono", "low_band")
# Two shards; one track is longer than a chunk, one is a single frame, one ends just at a chunk's end.
LENGTHS = ((5, 1, 1500), (1024, 300))
IDS = (("a.wav", "b/ä ö.wav", "c.d/e.tar.flac"), ("a_wav", "B" * 300))

Streams = dict[str, np.ndarray]


def make_tracks(lengths: tuple[int, ...], *, channels: int, dtype: str, seed: int) -> list[Streams]:
    rng = np.random.default_rng(seed)
    return [{name: rng.standard_normal((n, channels)).astype(dtype) for name in STREAMS} for n in lengths]


def write_cache(
    path: Path, shards: list[list[Streams]], *, storage: str, ids: tuple[tuple[str, ...], ...] | None = None
) -> LatentCache:
    """Shards of given frames and an index over them."""
    described = []
    for number, tracks in enumerate(shards):
        key = f"shard{number}"
        names = ids[number] if ids else [f"{number}/{position}.wav" for position in range(len(tracks))]
        if storage == "zarr":
            write_zarr_shard(path / "shards" / key, joined(tracks))
        else:
            (path / "shards").mkdir(parents=True, exist_ok=True)
            keys = [sample_key(position, name) for position, name in enumerate(names)]
            write_tar_shard(path / "shards" / f"{key}.tar", keys, tracks)
        described.append(describe(path, key, names, tracks))
    write_index(path, described, storage=storage, frames=shards[0][0]["mono"])
    return open_cache(path)


def joined(tracks: list[Streams]) -> Streams:
    return {name: np.concatenate([track[name] for track in tracks]) for name in STREAMS}


def describe(path: Path, key: str, names: Any, tracks: list[Streams]) -> Shard:
    cached, first = [], 0
    for name, track in zip(names, tracks, strict=True):
        frames = len(track["mono"])
        cached.append(CachedTrack(name, "train", "0" * 64, frames * 256, frames, ("bwe",), 22_050, 0.0, first, key))
        first += frames
    files = [file for file in (path / "shards").rglob("*") if file.is_file() and key in file.as_posix()]
    digests = {
        file.relative_to(path).as_posix(): (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files
    }
    blocks = {name: block_checksums(frames) for name, frames in joined(tracks).items()}
    return Shard(key, first, tuple(cached), digests, blocks)


def write_index(path: Path, shards: list[Shard], *, storage: str, frames: np.ndarray) -> None:
    spec = LatentSpec("tiny", "0" * 64, sample_rate=44_100, hop=256, channels=frames.shape[1])
    moments = {"mean": [0.0] * spec.channels, "std": [1.0] * spec.channels}
    index = {
        "format": "reencoder-cache-1",
        "storage": storage,
        "precision": str(frames.dtype),
        "spec": spec.to_dict(),
        "streams": list(STREAMS),
        "low_band": {"rate": 22_050, "resampler": "soxr_vhq"},
        "statistics": dict.fromkeys(STREAMS, moments),
        "shards": [shard_to_dict(shard) for shard in shards],
    }
    (path / "index.json").write_text(json.dumps(index))


WRITTEN = [make_tracks(lengths, channels=8, dtype="float16", seed=number) for number, lengths in enumerate(LENGTHS)]


@pytest.fixture(scope="module", params=STORAGES)
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    return write_cache(tmp_path_factory.mktemp(request.param), WRITTEN, storage=request.param, ids=IDS)


FLAT = [track for tracks in WRITTEN for track in tracks]


# The contract


def test_every_stream_of_every_track_is_read_as_it_was_written(cache: LatentCache) -> None:
    assert [track.id for track in cache.tracks] == [name for names in IDS for name in names]
    for track, streams in zip(cache.tracks, FLAT, strict=True):
        for name in STREAMS:
            frames = cache.read(track, name)
            assert frames.dtype == np.float16
            assert np.array_equal(frames, streams[name])


def test_windows_are_slices_of_their_tracks(cache: LatentCache) -> None:
    rng = np.random.default_rng(0)
    for name in STREAMS:
        for num_frames in (1, 7, 60):
            usable = [number for number, track in enumerate(cache.tracks) if track.num_frames >= num_frames]
            chosen = rng.choice(usable, size=200)
            starts = np.array([rng.integers(cache.tracks[t].num_frames - num_frames + 1) for t in chosen])
            addresses = cache.addresses([cache.tracks[t] for t in chosen], name) + starts * cache.spec.channels
            windows = cache.gather(addresses, num_frames=num_frames)
            assert windows.dtype == torch.float16
            expected = [FLAT[t][name][s : s + num_frames] for t, s in zip(chosen, starts, strict=True)]
            assert np.array_equal(windows.numpy(), np.stack(expected))


def test_the_last_window_of_the_last_shard_is_within_reach(cache: LatentCache) -> None:
    last, frames = cache.tracks[-1], FLAT[-1]["low_band"]
    address = cache.addresses([last], "low_band") + (last.num_frames - 1) * cache.spec.channels
    assert np.array_equal(cache.gather(address, num_frames=1)[0].numpy(), frames[-1:])


def test_gathered_windows_are_copies_that_outlive_the_cache(tmp_path: Path) -> None:
    cache = write_cache(tmp_path, WRITTEN, storage="zarr", ids=IDS)
    window = cache.gather(cache.addresses([cache.tracks[0]], "mono"), num_frames=5)
    del cache
    window += 1
    assert np.array_equal(window[0].numpy(), FLAT[0]["mono"] + np.float16(1))


@pytest.mark.parametrize("storage", STORAGES)
def test_the_same_frames_make_the_same_bytes(tmp_path: Path, storage: str) -> None:
    caches = [write_cache(tmp_path / name, WRITTEN, storage=storage, ids=IDS) for name in ("a", "b")]
    assert caches[0].digest == caches[1].digest  # it covers the sha256 of every file
    assert all(shard.files for shard in caches[0].shards)


@settings(max_examples=12)
@given(
    lengths=st.lists(st.lists(st.integers(1, 2100), min_size=1, max_size=4), min_size=1, max_size=3),
    channels=st.integers(1, 65),
    dtype=st.sampled_from(["float16", "float32"]),
    storage=st.sampled_from(STORAGES),
    data=st.data(),
)
def test_anything_survives_the_round_trip(
    lengths: list[list[int]], channels: int, dtype: str, storage: str, data: st.DataObject
) -> None:
    shards = [
        make_tracks(tuple(some), channels=channels, dtype=dtype, seed=number) for number, some in enumerate(lengths)
    ]
    with tempfile.TemporaryDirectory() as folder:
        cache = write_cache(Path(folder), shards, storage=storage)
        flat = [track for tracks in shards for track in tracks]
        for track, streams in zip(cache.tracks, flat, strict=True):
            assert np.array_equal(cache.read(track, "low_band"), streams["low_band"])
        number = data.draw(st.integers(0, len(flat) - 1))
        start = data.draw(st.integers(0, len(flat[number]["mono"]) - 1))
        num_frames = data.draw(st.integers(1, len(flat[number]["mono"]) - start))
        address = cache.addresses([cache.tracks[number]], "mono") + start * channels
        window = cache.gather(address, num_frames=num_frames)[0].numpy()
        assert window.dtype == np.dtype(dtype)
        assert np.array_equal(window, flat[number]["mono"][start : start + num_frames])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("value", [0.0, -0.0, 65_504.0, 6e-8])
def test_no_value_is_special(tmp_path: Path, storage: str, value: float) -> None:
    """Zarr drops chunks that equal its fill value, and then everything after them moves."""
    track = {name: np.full((3000, 4), value, dtype=np.float16) for name in STREAMS}
    cache = write_cache(tmp_path, [[track]], storage=storage)
    assert cache.read(cache.tracks[0], "low_band").tobytes() == track["low_band"].tobytes()


# Without our code


def test_plain_zarr_reads_a_shard(tmp_path: Path) -> None:
    write_cache(tmp_path, WRITTEN, storage="zarr", ids=IDS)
    group = zarr.open_group(tmp_path / "shards" / "shard0", mode="r")
    assert sorted(name for name, _ in group.arrays()) == sorted(STREAMS)
    for name in STREAMS:
        assert np.array_equal(np.asarray(group[name]), joined(WRITTEN[0])[name])  # type: ignore[arg-type]


def test_plain_webdataset_reads_a_shard(tmp_path: Path) -> None:
    write_cache(tmp_path, WRITTEN, storage="webdataset", ids=IDS)
    dataset = webdataset.compat.WebDataset(str(tmp_path / "shards" / "shard0.tar"), shardshuffle=False).decode()
    samples = list(dataset)  # type: ignore[arg-type]
    assert len(samples) == len(WRITTEN[0])
    for sample, streams in zip(samples, WRITTEN[0], strict=True):
        for name in STREAMS:
            assert np.array_equal(sample[f"{name}.npy"], streams[name])


def test_plain_tar_and_numpy_read_a_shard(tmp_path: Path) -> None:
    write_cache(tmp_path, WRITTEN, storage="webdataset", ids=IDS)
    with tarfile.open(tmp_path / "shards" / "shard1.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    files = sorted((tmp_path / "out").iterdir())
    expected = [track[name] for track in WRITTEN[1] for name in sorted(STREAMS)]
    assert len(files) == len(expected)
    assert all(np.array_equal(np.load(file), frames) for file, frames in zip(files, expected, strict=True))


# The layout of a Zarr shard


@pytest.mark.parametrize("num_frames", [1, 1023, 1024, 1025, 5000])
def test_a_zarr_shard_is_its_frames_and_a_footer(tmp_path: Path, num_frames: int) -> None:
    frames = np.random.default_rng(0).standard_normal((num_frames, 8)).astype(np.float16)
    write_zarr_shard(tmp_path / "shard", {"mono": frames})
    chunks = -(-num_frames // CHUNK_FRAMES)
    content = data_file(tmp_path / "shard", "mono").read_bytes()
    assert content[: frames.nbytes] == frames.tobytes()
    padding = np.frombuffer(content[frames.nbytes : chunks * CHUNK_FRAMES * 16], dtype=np.float16)
    assert np.isnan(padding).all()
    assert len(content) == chunks * CHUNK_FRAMES * 16 + chunks * 16 + 4
    assert is_linear(data_file(tmp_path / "shard", "mono"), num_frames=num_frames, frame_bytes=16)


def rewrite(folder: Path, frames: np.ndarray, order: Callable[[zarr.Array], None], **settings: Any) -> None:
    """Replace the mono stream of a shard by what another writer made of the same frames."""
    group = zarr.open_group(folder, mode="a")
    array = group.create_array(
        "mono",
        shape=frames.shape,
        chunks=settings.pop("chunks", (CHUNK_FRAMES, frames.shape[1])),
        shards=(-(-len(frames) // CHUNK_FRAMES) * CHUNK_FRAMES, frames.shape[1]),
        dtype=frames.dtype,
        compressors=settings.pop("compressors", None),
        filters=None,
        overwrite=True,
        **settings,
    )
    order(array)


def shuffled(folder: Path, frames: np.ndarray) -> None:
    """Whole chunks in another order, which the footer tells correctly."""
    file = data_file(folder, "mono")
    content = bytearray(file.read_bytes())
    chunks, size = -(-len(frames) // CHUNK_FRAMES), CHUNK_FRAMES * frames.shape[1] * 2
    index = np.frombuffer(bytes(content[chunks * size : -4]), dtype="<u8").reshape(-1, 2).copy()
    content[:size], content[size : 2 * size] = content[size : 2 * size], content[:size]
    index[[0, 1], 0] = index[[1, 0], 0]
    content[chunks * size : -4] = index.tobytes()
    import google_crc32c

    content[-4:] = google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    file.write_bytes(content)


def with_a_gap(folder: Path, frames: np.ndarray) -> None:
    """All zeros in the first chunk, and a writer that does not store what equals the fill value."""

    def write(array: zarr.Array) -> None:
        array[:] = frames

    rewrite(folder, frames, write, fill_value=0.0, config={"write_empty_chunks": False})


def with_small_chunks(folder: Path, frames: np.ndarray) -> None:
    """Two chunks across the channels."""

    def write(array: zarr.Array) -> None:
        array[:] = frames

    rewrite(folder, frames, write, chunks=(CHUNK_FRAMES, 4), fill_value=0.0, config={"write_empty_chunks": True})


def compressed(folder: Path, frames: np.ndarray) -> None:
    def write(array: zarr.Array) -> None:
        array[:] = frames

    rewrite(folder, frames, write, compressors="auto", fill_value=0.0)


def cache_of_another_writer(path: Path, other_writer: Callable[[Path, np.ndarray], None]) -> list[Streams]:
    tracks = make_tracks((1100, 1500), channels=8, dtype="float16", seed=0)
    tracks[0]["mono"][:CHUNK_FRAMES] = 0.0
    write_cache(path, [tracks, WRITTEN[1]], storage="zarr")
    other_writer(path / "shards" / "shard0", joined(tracks)["mono"])
    shards = [describe(path, "shard0", ["0", "1"], tracks), describe(path, "shard1", ["2", "3"], WRITTEN[1])]
    write_index(path, shards, storage="zarr", frames=tracks[0]["mono"])
    return tracks


def test_chunks_in_another_order_are_read_in_theirs(tmp_path: Path) -> None:
    """Zarr promises no order inside a shard; read as if it were in order, such a shard would be wrong silently."""
    tracks = cache_of_another_writer(tmp_path, shuffled)
    read = everything_of(tmp_path)
    expected = [track[name] for track in [*tracks, *WRITTEN[1]] for name in STREAMS]
    assert all(np.array_equal(a, b) for a, b in zip(read, expected, strict=True))


@pytest.mark.parametrize("other_writer", [with_a_gap, with_small_chunks, compressed])
def test_what_another_writer_described_is_not_read(
    tmp_path: Path, other_writer: Callable[[Path, np.ndarray], None]
) -> None:
    cache_of_another_writer(tmp_path, other_writer)
    with pytest.raises(CacheError, match=r"shard0|not a shard of this format"):
        everything_of(tmp_path)


def everything_of(path: Path) -> list[np.ndarray]:
    cache = open_cache(path)
    return [cache.read(track, name) for track in cache.tracks for name in STREAMS]


def test_a_sound_cache_warns_of_nothing(cache: LatentCache) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_cache(cache.path).read(cache.tracks[0], "mono")


# What cannot be read


def test_a_group_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such description of a shard"):
        require_own_format(tmp_path, "mono", shape=(5, 8), dtype=np.dtype(np.float16))


def test_a_cut_tar(tmp_path: Path) -> None:
    cache = write_cache(tmp_path, WRITTEN, storage="webdataset", ids=IDS)
    path = tmp_path / "shards" / "shard0.tar"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CacheError, match="shard"):
        cache.read(cache.tracks[0], "mono")
    with pytest.raises(CacheError, match="shard"):
        open_cache(tmp_path)


def test_a_tar_cut_between_members_lacks_one(tmp_path: Path) -> None:
    """webdataset itself reads such a file without an error."""
    cache = write_cache(tmp_path, WRITTEN, storage="webdataset", ids=IDS)
    path = tmp_path / "shards" / "shard1.tar"
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(CacheError, match=r"(?s)a member is missing.*00001_B*\.mono\.npy"):
        cache.read(cache.tracks[-1], "mono")


def test_any_flipped_bit_of_a_members_header_is_an_error_or_harmless(tmp_path: Path) -> None:
    """numpy evaluates a header as Python text; whatever that meets has to come out as CacheError."""
    path = tmp_path / "a.tar"
    frames = np.ones((3, 2), dtype=np.float16)
    write_tar_shard(path, ["00000_a"], [{"mono": frames}])
    promised = promised_members([("a", 3)], ["mono"], channels=2, dtype=np.dtype(np.float16))
    assert list(read_members(path, promised)) == ["00000_a.mono.npy"]
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        start = tar.getmembers()[0].offset_data
    outcomes = set()
    for bit in range(8 * 128):
        flipped = bytearray(content)
        flipped[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python warns of odd escapes in the text
                read_members(path, promised)
            outcomes.add("read")
        except CacheError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_nothing_to_map() -> None:
    with pytest.raises(CacheError, match="nothing to map"):
        AddressRange([], dtype=np.dtype(np.float16))


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "shards/../../x"])
def test_an_index_does_not_reach_out_of_its_folder(name: str) -> None:
    values, rest = shard_to_dict(Shard("key", 0, (), {}, {})), {"sums": {}, "failures": [], "retry": False}
    with pytest.raises(ValueError, match="lies outside it"):
        require_record({"shard": {**values, "files": {name: [1, "0" * 64]}}, **rest})
    with pytest.raises(ValueError, match="key"):
        require_record({"shard": {**values, "key": name}, **rest})


def test_a_sample_key_is_one_word_without_dots() -> None:
    keys = [sample_key(number, name) for number, name in enumerate([*IDS[0], *IDS[1], "", "音楽/..", "x" * 5000])]
    assert all("." not in key and "/" not in key and key.isascii() and len(key) < 100 for key in keys)
    assert len(set(keys)) == len(keys)
