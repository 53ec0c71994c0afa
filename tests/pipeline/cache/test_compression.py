"""Compressed Zarr shards: the same values everywhere, and nothing but our codecs and the promised sizes is decoded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import s3fs
import zarr
from numcodecs import Blosc, Zstd
from pydantic import ValidationError

from command_line import reencoder_cache
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.build.packing import settings
from reencoder_pipeline.cache.formats.compression import Compression, rounded
from reencoder_pipeline.cache.formats.zarr_shards import data_file
from reencoder_pipeline.cache.index_schema import require_index
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.exchange.convert import convert_cache
from reencoder_pipeline.exchange.export_latents import export_cache
from reencoder_pipeline.exchange.import_latents import import_latents
from reencoder_pipeline.inspection.seams import check_edges
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.windows.mapped_windows import WindowLoader
from reencoder_trainer.windows.pooled_windows import PoolLoader
from sharded_cache import write_shards
from tiny_build import build, music
from tiny_build import tree as files_of

CODECS = {"zstd": Compression("zstd", 3), "blosc": Compression("blosc", 5)}
LENGTHS = ((1100, 300), (200,))


def silent(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("plain") / "cache", LENGTHS)


@pytest.fixture(scope="module")
def compressed(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compressed")
    for name, compression in CODECS.items():
        convert_cache(plain, folder / name, storage="zarr", compression=compression, progress=silent)
    return {name: folder / name for name in CODECS}


@pytest.fixture(scope="module")
def built(tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Builds of the same songs: plain, rounded and compressed, and in 8 bits."""
    import soundfile

    folder = tmp_path_factory.mktemp("built")
    (folder / "songs").mkdir()
    for seed in range(4):
        soundfile.write(folder / "songs" / f"{seed}.wav", music(seconds=1.5 + seed / 4, seed=seed).T, 44_100)
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "rounded": {"compression": "zstd", "keep_bits": 4},
        "int8": {"precision": "int8"},
        "int8 compressed": {"precision": "int8", "compression": "blosc", "compression_level": 9},
    }
    for name, kind in kinds.items():
        build(folder / "songs", folder / name, tiny_autoencoder, streams=["mono", "low_band"], tasks=["bwe"], **kind)
    return {name: folder / name for name in kinds}


def everything(cache: LatentCache) -> list[np.ndarray]:
    return [cache.read(track, stream) for track in cache.tracks for stream in cache.streams]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


# The same values


@pytest.mark.parametrize("codec", CODECS)
def test_there_and_back_is_the_same_cache_file_for_file(
    plain: Path, compressed: dict[str, Path], tmp_path: Path, codec: str
) -> None:
    opened = open_cache(compressed[codec], checked=True)
    assert same(everything(opened), everything(open_cache(plain)))
    assert verify_cache(opened) == verify_cache(open_cache(plain))  # its statistics are made up
    convert_cache(compressed[codec], tmp_path / "back", storage="zarr", progress=silent)
    before, after = files_of(plain), files_of(tmp_path / "back")
    data = [name for name in before if name.startswith("shards/")]
    assert data
    assert all(after[name] == before[name] for name in data)
    assert json.loads(after["index.json"])["digest"] == json.loads(before["index.json"])["digest"]


@pytest.mark.parametrize("codec", CODECS)
def test_any_zarr_reader_opens_it_and_it_is_smaller(plain: Path, compressed: dict[str, Path], codec: str) -> None:
    cache = open_cache(plain)
    for shard in cache.shards:
        group: Any = zarr.open_group(compressed[codec] / "shards" / shard.key, mode="r")
        for stream in cache.streams:
            ours = np.concatenate([cache.read(track, stream) for track in shard.tracks])
            assert np.array_equal(group[stream][:], ours)
            file = data_file(compressed[codec] / "shards" / shard.key, stream)
            assert file.stat().st_size < data_file(plain / "shards" / shard.key, stream).stat().st_size


def test_the_same_latents_make_the_same_bytes(plain: Path, compressed: dict[str, Path], tmp_path: Path) -> None:
    for name, compression in CODECS.items():
        convert_cache(plain, tmp_path / name, storage="zarr", compression=compression, progress=silent)
        assert files_of(tmp_path / name) == files_of(compressed[name])


@pytest.mark.parametrize("codec", CODECS)
def test_trainings_and_exports_read_it(plain: Path, compressed: dict[str, Path], tmp_path: Path, codec: str) -> None:
    task = get_task("bwe")
    loaders = [
        WindowLoader(open_cache(path), task, split="train", num_frames=60, seed=0)
        for path in (plain, compressed[codec])
    ]
    pools = [
        PoolLoader(open_cache(path), task, split="train", num_frames=60, seed=0, pool_shards=1)
        for path in (plain, compressed[codec])
    ]
    for mine, other in (loaders, pools):
        for step in (0, 7):
            a, b = (each.batch(step, batch_size=8) for each in (mine, other))
            assert all((a[name] == b[name]).all() for name in a)
        mine.close()
        other.close()
    for name, path in (("plain", plain), (codec, compressed[codec])):
        export_cache(path, tmp_path / name, length=100, progress=silent)
    exported = [
        {n: content for n, content in files_of(tmp_path / name).items() if n != "details.json"}
        for name in ("plain", codec)
    ]
    assert exported[0] == exported[1]


@pytest.mark.parametrize("codec", CODECS)
def test_it_is_read_behind_a_url(
    plain: Path,
    compressed: dict[str, Path],
    s3_bucket: str,
    tmp_path: Path,
    codec: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    s3fs.S3FileSystem().put(f"{compressed[codec]}/", f"{s3_bucket}/cache/", recursive=True)
    away, home = open_cache(f"{s3_bucket}/cache"), open_cache(plain)
    assert verify_cache(away) == verify_cache(home)
    pool = PoolLoader(away, get_task("bwe"), split="train", num_frames=60, seed=0, pool_shards=2)
    other = PoolLoader(home, get_task("bwe"), split="train", num_frames=60, seed=0, pool_shards=2)
    assert (pool.batch(1, batch_size=8)["mono"] == other.batch(1, batch_size=8)["mono"]).all()
    assert not any(path.is_file() for path in tmp_path.rglob("c/0/0"))  # the pool keeps no copies
    assert same(everything(away), everything(home))  # local copies


# Builds


def test_a_build_rounds_before_it_compresses_and_says_so(built: dict[str, Path], tiny_autoencoder: Path) -> None:
    exact, cache = open_cache(built["plain"]), open_cache(built["rounded"])
    assert same(everything(cache), [rounded(frames, 4) for frames in everything(exact)])
    assert not same(everything(cache), everything(exact))
    assert cache.notes == ("latents are rounded to 4 bits of mantissa (float16)",)
    assert (cache.keep_bits, cache.format.compression) == (4, Compression("zstd", 3))
    assert verify_cache(cache) == []  # statistics are those of the rounded values
    assert {shard.key for shard in cache.shards}.isdisjoint(shard.key for shard in exact.shards)


def test_rounding_is_no_seam(built: dict[str, Path], tiny_autoencoder: Path) -> None:
    loaded, songs = load_autoencoder(str(tiny_autoencoder)), built["plain"].parent / "songs"
    found = [check_edges(open_cache(built[name]), loaded, songs, samples=6, seed=0) for name in ("plain", "rounded")]
    assert not any(finding.severity != "note" for findings in found for finding in findings)
    exact, coarse = ((findings[0].measured or {})["mean_away"] for findings in found)
    assert coarse < exact + 1e-6  # half a step is taken off


def test_latents_are_imported_rounded_and_compressed(built: dict[str, Path], tmp_path: Path) -> None:
    source = open_cache(built["plain"])
    export_cache(source.path, tmp_path / "items", length=None, progress=silent)
    config = CacheConfig.model_validate({"compression": "blosc", "keep_bits": 4})
    out = tmp_path / "imported"
    import_latents(
        {name: tmp_path / "items" / name for name in source.streams}, out, source.spec, config, progress=silent
    )
    imported = open_cache(out)
    values = {(track.id, name): imported.read(track, name) for track in imported.tracks for name in imported.streams}
    assert len(values) == 2 * len(source.tracks)
    for track in source.tracks:
        for name in source.streams:
            assert np.array_equal(values[track.id, name], rounded(source.read(track, name), 4))
    assert imported.keep_bits == 4
    assert any("rounded to 4 bits" in note for note in imported.notes)


def test_int8_is_compressed_with_its_scales(built: dict[str, Path], tmp_path: Path) -> None:
    exact, cache = open_cache(built["int8"]), open_cache(built["int8 compressed"])
    assert same(everything(cache), everything(exact))
    assert verify_cache(cache) == []
    convert_cache(built["int8 compressed"], tmp_path / "tar", storage="webdataset", progress=silent)
    assert same(everything(open_cache(tmp_path / "tar")), everything(exact))


def test_a_cache_without_compression_keeps_its_keys(built: dict[str, Path]) -> None:
    assert not {"compression", "compression_level", "keep_bits"} & settings(CacheConfig.model_validate({})).keys()
    index = json.loads((built["plain"] / "index.json").read_text())
    assert not {"compression", "keep_bits", "notes"} & index.keys()


def test_other_settings_are_another_cache(built: dict[str, Path], tiny_autoencoder: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(built["rounded"], tmp_path / "cache"))
    with pytest.raises(CacheError, match="compression: 'zstd' then, None now"):
        build(built["plain"].parent / "songs", out, tiny_autoencoder, streams=["mono", "low_band"], tasks=["bwe"])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"compression": "zstd", "format": "webdataset"}, "webdataset format has no compression"),
        ({"keep_bits": 5}, "need a compression"),
        ({"compression": "zstd", "keep_bits": 5, "precision": "int8"}, "int8 has none"),
        ({"compression": "zstd", "keep_bits": 10}, "fewer bits than float16"),
        ({"compression": "blosc", "compression_level": 12}, "blosc is 1 to 9"),
        ({"compression": "gzip"}, "none', 'zstd' or 'blosc"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        CacheConfig.model_validate(values)


def test_the_command_compresses(plain: Path, tmp_path: Path) -> None:
    done = reencoder_cache("convert", plain, "--out", tmp_path / "out", "--format", "zarr", "--compression", "blosc")
    assert done.returncode == 0, done.stderr
    assert open_cache(tmp_path / "out").format.compression == CODECS["blosc"]


def test_rounding_never_makes_infinity_and_twice_is_once() -> None:
    frames = np.array([[65504, -65504, 1.2345, 1e-7, 0, -3.3]], dtype=np.float16)
    once = rounded(frames, 3)
    assert once.tolist() == [[65504, -65504, 1.25, once[0, 3], 0, -3.25]]
    assert np.array_equal(rounded(once, 3), once)


# Hostile and damaged caches


def reindexed(cache: Path, change: Callable[[dict[str, Any]], object] = lambda index: None) -> Path:
    """The index made to fit the files as they are, as a person who hands on a cache can."""
    index = json.loads((cache / "index.json").read_text())
    del index["digest"]
    for shard in index["shards"]:
        for name in shard["files"]:
            content = (cache / name).read_bytes()
            shard["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    change(index)
    (cache / "index.json").write_text(json.dumps({**index, "digest": canonical_digest(index)}))
    return cache


def readings(path: Path) -> Iterator[Callable[[], object]]:
    """Every way to read a cache."""
    task = get_task("bwe")
    yield lambda: everything(open_cache(path))
    yield lambda: PoolLoader(open_cache(path), task, split="train", num_frames=60, seed=0, pool_shards=2).batch(
        0, batch_size=4
    )
    yield lambda: convert_cache(path, path.with_name("converted"), storage="zarr", progress=silent)


BLOSC = {"typesize": 2, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
OTHER_CODECS = {
    "none": [],
    "pickle": [{"name": "numcodecs.pickle", "configuration": {}}],
    "gzip": [{"name": "gzip", "configuration": {"level": 5}}],
    "bitround": [{"name": "numcodecs.bitround", "configuration": {"keepbits": 5}}],
    "twice": [{"name": "blosc", "configuration": BLOSC}] * 2,
    "another library": [{"name": "blosc", "configuration": {**BLOSC, "cname": "lz4"}}],
    "another level": [{"name": "blosc", "configuration": {**BLOSC, "clevel": 6}}],
}


@pytest.mark.parametrize("name", OTHER_CODECS)
def test_other_codecs_are_refused(compressed: dict[str, Path], tmp_path: Path, name: str) -> None:
    cache = Path(shutil.copytree(compressed["blosc"], tmp_path / "cache"))
    file = cache / "shards" / "shard000" / "mono" / "zarr.json"
    description = json.loads(file.read_text())
    inner = description["codecs"][0]["configuration"]["codecs"]
    inner[1:] = OTHER_CODECS[name]
    file.write_text(json.dumps(description))
    with pytest.raises(CacheError, match="not a shard of this format"):
        everything(open_cache(reindexed(cache)))
    assert any(finding.severity == "damage" for finding in verify_cache(open_cache(cache)))


CHUNK = 1024 * 8 * 2  # bytes of a chunk's frames


def zstd(size: int) -> bytes:
    return bytes(Zstd(3).encode(np.zeros(size, np.uint8)))


def blosc(size: int, *, cname: str = "zstd") -> bytes:
    return bytes(Blosc(cname, 5, Blosc.BITSHUFFLE).encode(np.zeros(size, np.uint8)))


def claiming(chunk: bytes, size: int) -> bytes:
    """A blosc buffer of another length that says it decodes to `size` bytes."""
    return chunk[:4] + size.to_bytes(4, "little") + chunk[8:]


CHUNKS: dict[str, tuple[str, bytes]] = {
    "a zstd bomb": ("zstd", zstd(10**8)),
    "too little zstd": ("zstd", zstd(CHUNK - 1)),
    "zstd that does not say its size": ("zstd", b"\x28\xb5\x2f\xfd\x00\x58" + zstd(CHUNK)[6:]),
    "two frames of zstd": ("zstd", zstd(CHUNK) + zstd(CHUNK)),
    "no zstd": ("zstd", b"\0" * 40),
    "nothing": ("zstd", b"x"),
    "a blosc bomb": ("blosc", blosc(10**8)),
    "too little blosc": ("blosc", blosc(CHUNK - 16)),
    "blosc that claims the right size": ("blosc", claiming(blosc(10**8), CHUNK)),
    "blosc of another library": ("blosc", blosc(CHUNK, cname="lz4")),
    "blosc that is longer than its chunk": ("blosc", blosc(CHUNK)[:-3]),
    "no blosc": ("blosc", b"\xff" * 40),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_decodes_to_exactly_its_frames(compressed: dict[str, Path], tmp_path: Path, name: str) -> None:
    codec, chunk = CHUNKS[name]
    cache = Path(shutil.copytree(compressed[codec], tmp_path / "cache"))
    file = data_file(cache / "shards" / "shard000", "mono")  # 1,400 frames: two chunks
    index = np.array([[0, len(chunk)], [0, len(chunk)]], "<u8").tobytes()
    file.write_bytes(chunk + b"padding" + index + google_crc32c.value(index).to_bytes(4, "little"))
    reindexed(cache)
    for read in readings(cache):
        with pytest.raises(CacheError, match=r"shard000"):
            read()
    assert any(finding.severity == "damage" for finding in verify_cache(open_cache(cache)))


@pytest.mark.parametrize("entry", [[2**63, 10], [0, 2**40], [10**6, 5]])
def test_a_chunk_lies_in_its_file(compressed: dict[str, Path], tmp_path: Path, entry: list[int]) -> None:
    cache = Path(shutil.copytree(compressed["zstd"], tmp_path / "cache"))
    file = data_file(cache / "shards" / "shard000", "mono")
    content = bytearray(file.read_bytes())
    index = np.frombuffer(bytes(content[-36:-4]), "<u8").reshape(2, 2).copy()
    index[0] = entry
    content[-36:] = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(CacheError, match="not what the index says"):
        everything(open_cache(reindexed(cache)))


def test_every_flipped_bit_is_found(compressed: dict[str, Path], tmp_path: Path) -> None:
    """Some damage decodes to other values without an error: checksums find it when the shard is opened."""
    random = np.random.default_rng(0)
    for codec, path in compressed.items():
        cache = Path(shutil.copytree(path, tmp_path / codec))
        file = data_file(cache / "shards" / "shard000", "mono")
        sound, original = file.read_bytes(), everything(open_cache(path))
        for position in random.integers(len(sound), size=60):
            damaged = bytearray(sound)
            damaged[position] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            assert any(finding.severity == "damage" for finding in verify_cache(open_cache(cache)))
            with suppress(CacheError):
                assert same(everything(open_cache(cache)), original)  # a bit that means nothing
        file.write_bytes(sound)


@pytest.mark.parametrize(
    "change",
    [
        {"compression": {"codec": "zstd", "level": 20}},
        {"compression": {"codec": "blosc", "level": 10}},
        {"compression": {"codec": "zstd", "level": 0}},
        {"compression": {"codec": "gzip", "level": 5}},
        {"compression": {"codec": "zstd", "level": 3, "code": "os:system"}},
        {"compression": "zstd"},
        {"compression": {"codec": "zstd", "level": 3}, "storage": "webdataset"},
        {"keep_bits": 10},
        {"keep_bits": True},
    ],
)
def test_an_index_names_no_other_compression(plain: Path, change: dict[str, Any]) -> None:
    index = json.loads((plain / "index.json").read_text())
    del index["digest"]
    with pytest.raises(CacheError, match="the index is damaged"):
        require_index({**index, **change}, where="here", remedy="none")


def test_a_shard_claims_no_more_frames_than_its_file_can_index(compressed: dict[str, Path]) -> None:
    index = json.loads((compressed["zstd"] / "index.json").read_text())
    del index["digest"]
    shard = index["shards"][1]
    shard.update(num_frames=10**7, blocks={name: [0] * 9_766 for name in index["streams"]})
    shard["tracks"][0].update(num_frames=10**7)
    with pytest.raises(CacheError, match="its frames make"):
        require_index(index, where="here", remedy="none")
