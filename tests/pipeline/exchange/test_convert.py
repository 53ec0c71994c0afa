"""Converting a cache: the same tracks, values and statistics in the other format; on the way back the same files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reencoder_pipeline.cache.formats.zarr_shards import data_file
from reencoder_pipeline.cache.index import CachedTrack, Shard
from reencoder_pipeline.cache.index_schema import require_record
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.exchange.convert import Converted, convert_cache
from reencoder_pipeline.inspection.verify import discard, verify_cache
from reencoder_pipeline.shards import write_shard
from reencoder_pipeline.stores.digests import canonical_digest
from tar_members import members_in
from tiny_build import Built, leftovers, scratch_name, tree
from tiny_cache import write_cache

STORAGES = ["zarr", "webdataset"]


def convert(
    source: Path | str, out: Path, storage: str, progress: Callable[[int, int], None] | None = None
) -> Converted:
    return convert_cache(source, out, storage=storage, progress=progress or (lambda done, total: None))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small cache in both formats, with checksums. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("sound")
    first = write_cache(folder / "first")
    index = json.loads((first / "index.json").read_text())
    (first / "index.json").write_text(json.dumps({**index, "notes": ["made by hand"]}))
    convert(first, folder / "zarr", "zarr")
    convert(folder / "zarr", folder / "webdataset", "webdataset")
    return {name: folder / name for name in ("first", *STORAGES)}


def require_equal(one: LatentCache, other: LatentCache) -> None:
    assert (one.spec, one.precision, one.streams, one.notes) == (
        other.spec,
        other.precision,
        other.streams,
        other.notes,
    )
    assert one.low_band == other.low_band
    assert one.tracks == other.tracks
    for stream in one.streams:
        for name in ("mean", "std"):
            assert np.array_equal(getattr(one.statistics[stream], name), getattr(other.statistics[stream], name))
        for a, b in zip(one.tracks, other.tracks, strict=True):
            assert np.array_equal(one.read(a, stream), other.read(b, stream))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_converted_cache_is_the_same_in_another_format(sound: dict[str, Path], storage: str) -> None:
    there, back = open_cache(sound[storage]), open_cache(sound["first"])
    assert there.storage == storage
    require_equal(there, back)
    assert verify_cache(there) == []
    assert leftovers(sound[storage]) == []


@pytest.mark.parametrize(("first", "second"), [("zarr", "webdataset"), ("webdataset", "zarr")])
def test_there_and_back_every_file_and_the_digest_are_the_same(
    sound: dict[str, Path], tmp_path: Path, first: str, second: str
) -> None:
    before = tree(sound[first])
    convert(sound[first], tmp_path / "there", second)
    convert(tmp_path / "there", tmp_path / "back", first)
    assert tree(sound[first]) == before, "the original changed"
    after = tree(tmp_path / "back")
    assert {**after, "settings.json": b""} == {**before, "settings.json": b""}
    assert open_cache(tmp_path / "back").digest == open_cache(sound[first]).digest


def test_a_cache_that_was_built_goes_there_and_back(built: Built, tmp_path: Path) -> None:
    convert(built("zarr"), tmp_path / "tar", "webdataset")
    convert(tmp_path / "tar", tmp_path / "back", "zarr")
    require_equal(open_cache(tmp_path / "tar"), open_cache(built("zarr")))
    before, after = tree(built("zarr")), tree(tmp_path / "back")
    records = {name: b"" for name in before if name.endswith(".json") and name.startswith("shards/")}
    assert {**after, **records, "settings.json": b""} == {**before, **records, "settings.json": b""}
    assert after["failures.jsonl"] == before["failures.jsonl"]
    assert verify_cache(open_cache(tmp_path / "tar")) == []


def test_a_cache_behind_a_url_converts_too(sound: dict[str, Path], tmp_path: Path, s3_bucket: str) -> None:
    import s3fs

    s3fs.S3FileSystem().put(f"{sound['zarr']}/", f"{s3_bucket}/cache/", recursive=True)
    convert(f"{s3_bucket}/cache", tmp_path / "out", "webdataset")
    assert tree(tmp_path / "out") == tree(sound["webdataset"])


def stop_after_one(done: int, total: int) -> None:
    assert 0 < done <= total
    raise KeyboardInterrupt


def test_the_same_command_goes_on(sound: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(sound["zarr"], tmp_path / "out", "webdataset", stop_after_one)
    with pytest.raises(CacheError, match="not complete"):
        open_cache(tmp_path / "out")
    (first,) = (tmp_path / "out" / "shards").glob("*.tar")
    before = first.stat().st_mtime_ns
    (tmp_path / "out" / "shards" / scratch_name()).write_bytes(b"half")
    done = convert(sound["zarr"], tmp_path / "out", "webdataset")
    assert (done.shards_written, done.shards_kept, first.stat().st_mtime_ns) == (1, 1, before)
    assert tree(tmp_path / "out") == tree(sound["webdataset"])
    assert convert(sound["zarr"], tmp_path / "out", "webdataset").shards_kept == 2


def test_what_verify_discards_is_made_again(sound: dict[str, Path], tmp_path: Path) -> None:
    convert(sound["zarr"], tmp_path / "out", "webdataset")
    cache = open_cache(tmp_path / "out")
    flip(tmp_path / "out" / "shards" / "train.tar", -5000)
    assert discard(cache, verify_cache(cache)) == 1
    assert convert(sound["zarr"], tmp_path / "out", "webdataset").shards_written == 1
    assert tree(tmp_path / "out") == tree(sound["webdataset"])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("storage", STORAGES)
def test_damage_does_not_become_sound_by_being_copied(sound: dict[str, Path], tmp_path: Path, storage: str) -> None:
    source = Path(shutil.copytree(sound[storage], tmp_path / "source"))
    if storage == "zarr":
        flip(data_file(source / "shards" / "valid", "left"), 100)
    else:
        tar = source / "shards" / "valid.tar"
        flip(tar, members_in(tar)["00001_valid-1.left.npy"].offset)
    with pytest.raises(CacheError, match=rf"valid.{'left' if storage == 'zarr' else 'tar'}.*not what the index says"):
        convert(source, tmp_path / "out", "zarr")
    assert not (tmp_path / "out" / "index.json").exists()
    assert (tmp_path / "out" / "shards" / "train.json").exists()


def test_a_folder_with_something_else_in_it_is_refused(sound: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ConfigError, match="neither empty nor"):
        convert(sound["zarr"], tmp_path / "photos", "webdataset")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    with pytest.raises(CacheError, match=r"begun with other settings[^~]*format: 'webdataset' then, 'zarr' now"):
        convert(sound["zarr"], sound["webdataset"], "zarr")
    copy = Path(shutil.copytree(sound["zarr"], tmp_path / "copy"))
    for name in ("settings.json", "failures.jsonl"):
        (copy / name).unlink()
    before = tree(copy)
    with pytest.raises(ConfigError, match="neither empty nor"):
        convert(copy, copy, "webdataset")
    assert tree(copy) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        convert(sound["zarr"], tmp_path / "file", "webdataset")


def test_a_full_disk_is_one_clear_error(
    sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write_shard, "write_record", no_room)
    with pytest.raises(CacheError, match="disk is full"):
        convert(sound["zarr"], tmp_path / "out", "webdataset")
    monkeypatch.undo()
    convert(sound["zarr"], tmp_path / "out", "webdataset")
    assert tree(tmp_path / "out") == tree(sound["webdataset"])


@pytest.mark.parametrize("streams", [["mono", "../outside"], ["mono", "drums"]])
def test_names_in_an_index_are_not_trusted(sound: dict[str, Path], tmp_path: Path, streams: list[str]) -> None:
    source = Path(shutil.copytree(sound["zarr"], tmp_path / "source"))
    index = json.loads((source / "index.json").read_text())
    index |= {"streams": streams, "statistics": dict.fromkeys(streams, index["statistics"]["mono"])}
    del index["digest"]
    (source / "index.json").write_text(json.dumps({**index, "digest": canonical_digest(index)}))
    with pytest.raises(CacheError, match=r"(?s)the index is damaged.*(streams|statistics)"):
        convert(source, tmp_path / "out", "zarr")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["..", ".", "", "a/b", "a.b"])
def test_a_shards_key_is_a_name_without_dots(key: str) -> None:
    track = CachedTrack("a", "train", "0" * 64, 10, 1, (), None, None, 0, key)
    values = {**vars(Shard(key, 1, (), {}, {})), "tracks": [vars(track)]}
    with pytest.raises(ValueError, match="key"):
        require_record({"shard": values, "sums": {}, "failures": [], "retry": False})
