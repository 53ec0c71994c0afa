"""A cache in 8 bits: nobody but the shard sees them, scales are kept as well as frames, and a track's are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import soundfile
import torch
import zarr

from encode_here import noting_what_is_encoded  # noqa: F401, a fixture
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.cache.formats.int8 import dequantised, quantised, scale_of
from reencoder_pipeline.cache.formats.zarr_shards import data_file, is_linear
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.exchange.convert import convert_cache
from reencoder_pipeline.exchange.export_latents import export_cache
from reencoder_pipeline.exchange.import_latents import import_latents
from reencoder_pipeline.exchange.items import folders_of
from reencoder_pipeline.inspection.measurements import measure
from reencoder_pipeline.inspection.seams import check_edges
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.windows.mapped_windows import WindowLoader
from reencoder_trainer.windows.pooled_windows import PoolLoader
from tar_members import members_in
from tiny_build import build, copied, tree
from tiny_build import music as render

STORAGES = ["zarr", "webdataset"]
STREAMS = ("mono", "low_band")
SETTINGS: dict[str, Any] = {"streams": list(STREAMS), "tasks": ["bwe"], "valid_share": 0, "test_share": 0}
FRAMES = 60


def silent(done: int, total: int) -> None:
    pass


def write_song(path: Path, *, seed: int) -> None:
    soundfile.write(
        path, render(seconds=1.1 + 0.37 * (seed % 5), seed=seed).T / (seed + 1), 44_100
    )  # 190 frames and more


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for seed, letter in enumerate("bcdefghijklmnopq"):
        write_song(folder / f"{letter}.wav", seed=seed)
    return folder


@pytest.fixture(scope="module")
def caches(songs: Path, tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same songs in 8 bits, in both formats, and in float32. Not to be changed: copy them."""
    folder = tmp_path_factory.mktemp("caches")
    for storage in STORAGES:
        build(songs, folder / storage, tiny_autoencoder, format=storage, precision="int8", **SETTINGS)
    build(songs, folder / "float32", tiny_autoencoder, precision="float32", **SETTINGS)
    return {name: folder / name for name in (*STORAGES, "float32")}


@pytest.fixture(params=STORAGES)
def cache(request: pytest.FixtureRequest, caches: dict[str, Path]) -> LatentCache:
    return open_cache(caches[request.param])


def scales_of(cache: LatentCache, stream: str) -> np.ndarray:
    scales = cache.scales(cache.tracks, stream)
    assert scales is not None
    return scales


# What is stored


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


def test_latents_are_the_exact_ones_to_half_a_step_of_their_track(cache: LatentCache, caches: dict[str, Path]) -> None:
    exact = open_cache(caches["float32"])
    assert len(cache.shards) > 1
    assert exact.scales(exact.tracks, "mono") is None
    for stream in STREAMS:
        for track, twin, scale in zip(cache.tracks, exact.tracks, scales_of(cache, stream), strict=True):
            latents, expected = cache.read(track, stream), exact.read(twin, stream)
            assert latents.dtype == np.float32
            np.testing.assert_allclose(scale, np.abs(expected).max(axis=0) / 127, rtol=1e-6)
            assert (np.abs(latents - expected) <= scale * 0.5001).all()
            assert (latents != expected).any()
            assert cache.read_stored(track, stream)[stream].dtype == np.int8


def test_statistics_are_those_of_what_is_read(cache: LatentCache) -> None:
    for stream in STREAMS:
        joined = np.concatenate([cache.read(track, stream) for track in cache.tracks]).astype(np.float64)
        np.testing.assert_allclose(cache.statistics[stream].mean, joined.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(cache.statistics[stream].std, joined.std(axis=0), rtol=1e-4)
    assert verify_cache(cache) == []


def test_any_reader_finds_frames_and_scales(caches: dict[str, Path]) -> None:
    cache = open_cache(caches["zarr"])
    tar = open_cache(caches["webdataset"])
    for shard, other in zip(cache.shards, tar.shards, strict=True):
        folder = cache.path / "shards" / shard.key
        assert is_linear(data_file(folder, "mono"), num_frames=shard.num_frames, frame_bytes=cache.spec.channels)
        group: Any = zarr.open_group(folder, mode="r")
        for position, track in enumerate(shard.tracks):
            frames = group["mono"][track.first_frame :][: track.num_frames] * group["mono_scale"][position]
            assert np.array_equal(frames, cache.read(track, "mono"))
        members = members_in(tar.path / "shards" / f"{other.key}.tar")
        scales = {name: member.shape for name, member in members.items() if name.endswith(".mono_scale.npy")}
        assert list(scales.values()) == [(1, cache.spec.channels)] * len(other.tracks)


# What is read


def test_windows_are_latents(cache: LatentCache) -> None:
    task, latents = get_task("bwe"), {}
    for stream in STREAMS:
        latents[stream] = {cache.read(track, stream)[first : first + FRAMES].tobytes()
                           for track in cache.tracks for first in range(track.num_frames - FRAMES + 1)}  # fmt: skip
    mapped = WindowLoader(cache, task, split="train", num_frames=FRAMES, seed=0)
    streamed = PoolLoader(cache, task, split="train", num_frames=FRAMES, seed=0, pool_shards=2)
    for loader in (mapped, streamed):
        for step in range(6):
            whole = loader.batch(step, batch_size=8)
            half = loader.batch(step, batch_size=8, rank=1, world_size=2)
            for stream, windows in whole.items():
                assert windows.dtype == torch.float32
                assert all(window.numpy().tobytes() in latents[stream] for window in windows)
                assert torch.equal(half[stream], windows[4:])
    streamed.close()


def test_behind_a_url_too(cache: LatentCache, s3_bucket: str, tmp_path: Path) -> None:
    s3fs.S3FileSystem().put(f"{cache.path}/", f"{s3_bucket}/cache/", recursive=True)
    away = open_cache(f"{s3_bucket}/cache", local_folder=tmp_path, checked=True)
    for track in cache.tracks:
        assert np.array_equal(away.read(track, "low_band"), cache.read(track, "low_band"))
    task, found = get_task("bwe"), []
    for place in (cache, away):
        loader = PoolLoader(place, task, split="train", num_frames=FRAMES, seed=0, pool_shards=2)
        found.append(loader.batch(5, batch_size=8))
        loader.close()
    assert all(torch.equal(found[0][stream], found[1][stream]) for stream in STREAMS)


def test_inspection_and_the_search_for_seams_see_latents(
    caches: dict[str, Path], songs: Path, tiny_autoencoder: Path
) -> None:
    cache, exact = open_cache(caches["zarr"]), open_cache(caches["float32"])
    found, expected = (measure(each, windows=20, seed=0)["distance"]["bwe"] for each in (cache, exact))
    assert found == pytest.approx(expected, rel=0.05)
    autoencoder = load_autoencoder(str(tiny_autoencoder))
    assert {finding.severity for finding in check_edges(cache, autoencoder, songs, samples=3, seed=0)} == {"note"}


# What becomes of it


@pytest.mark.parametrize("storage", STORAGES)
def test_a_track_that_is_taken_over_keeps_its_bits(
    storage: str, songs: Path, caches: dict[str, Path], tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str]
) -> None:
    changed = copied(songs, tmp_path / "songs")
    write_song(changed / "a.wav", seed=20)  # as no other: one that sounds alike is copied
    out, fresh = copied(caches[storage], tmp_path / "cache"), tmp_path / "fresh"
    result = build(changed, out, tiny_autoencoder, format=storage, precision="int8", **SETTINGS)
    assert encodes_here == ["a.wav"]
    assert result.reused > 0
    build(changed, fresh, tiny_autoencoder, format=storage, precision="int8", **SETTINGS)
    assert tree(out) == tree(fresh)


def test_converting_there_and_back_gives_the_same_files(caches: dict[str, Path], tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    convert_cache(caches["zarr"], there, storage="webdataset", progress=silent)
    convert_cache(there, back, storage="zarr", progress=silent)
    assert verify_cache(open_cache(there)) == []
    assert scales_of(open_cache(there), "mono").tolist() == scales_of(open_cache(caches["zarr"]), "mono").tolist()
    assert open_cache(back).digest == open_cache(caches["zarr"]).digest
    first, last = tree(caches["zarr"]), tree(back)
    data = [name for name in first if name.startswith("shards/") and name.count("/") > 1]
    assert [name for name in data if first[name] != last[name]] == []
    assert any("mono_scale" in name for name in data)


def test_export_gives_latents_and_import_takes_them_back_bit_for_bit(cache: LatentCache, tmp_path: Path) -> None:
    export_cache(cache.origin, tmp_path / "latents", progress=silent)
    assert {np.load(path).dtype for path in (tmp_path / "latents").rglob("*.npy")} == {np.dtype(np.float32)}
    folders = folders_of(None, [f"{name}={tmp_path / 'latents' / name}" for name in STREAMS], cache.spec)
    config = CacheConfig(precision="int8", format=cache.storage)  # type: ignore[arg-type]
    import_latents(folders, tmp_path / "again", cache.spec, config, progress=silent)
    again = open_cache(tmp_path / "again", checked=True)
    twins = {track.id: track for track in again.tracks}
    for track in cache.tracks:
        for stream in STREAMS:
            here, there = cache.read_stored(track, stream), again.read_stored(twins[track.id], stream)
            assert np.array_equal(here[stream], there[stream])
            np.testing.assert_allclose(here[f"{stream}_scale"], there[f"{stream}_scale"], rtol=1e-6)
    assert verify_cache(again) == []


# Damage


@pytest.mark.parametrize("storage", STORAGES)
def test_a_flipped_bit_in_a_scale_is_found(storage: str, caches: dict[str, Path], tmp_path: Path) -> None:
    cache = open_cache(copied(caches[storage], tmp_path / "cache"))
    track = cache.tracks[0]
    scale = cache.read_stored(track, "mono")["mono_scale"].tobytes()
    path = cache.path / cache.format.data_name(cache.shards[0].key, "mono_scale")
    content = bytearray(path.read_bytes())
    content[content.index(scale)] ^= 1
    path.unlink()  # a hard link
    path.write_bytes(content)
    with pytest.raises(CacheError, match="scales of a shard are not what the index says"):
        open_cache(cache.path).read(track, "mono")
    (finding,) = verify_cache(cache)
    assert finding.severity == "damage"
    assert "mono_scale" in finding.problem
