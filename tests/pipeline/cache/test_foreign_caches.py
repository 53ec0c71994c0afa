"""Caches of others: an index that contradicts itself, shards that our writer would not have written, tars with more."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reencoder_pipeline.cache.index_schema import require_index
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.stores.digests import canonical_digest
from sharded_cache import write_shards

LENGTHS = ((1100, 300), (200,))
STORAGES = ("zarr", "webdataset")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("caches")
    return {storage: write_shards(folder / storage, LENGTHS, storage=storage) for storage in STORAGES}


def index_of(cache: Path) -> dict[str, Any]:
    index = json.loads((cache / "index.json").read_text())
    del index["digest"]
    return index


def reindexed(cache: Path, change: Callable[[dict[str, Any]], object] = lambda index: None) -> Path:
    """The index made to fit the files as they are, as a person who hands on a cache can."""
    index = index_of(cache)
    for shard in index["shards"]:
        for name in shard["files"]:
            content = (cache / name).read_bytes()
            shard["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
    change(index)
    (cache / "index.json").write_text(json.dumps({**index, "digest": canonical_digest(index)}))
    return cache


def everything(cache: LatentCache) -> list[np.ndarray]:
    return [cache.read(track, stream) for track in cache.tracks for stream in cache.streams]


def first_shard(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["shards"][0].update(values)


def first_track(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["shards"][0]["tracks"][0].update(values)


def first_statistics(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["statistics"]["mono"].update(values)


def with_file(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["shards"][0]["files"].update({name: [3, "0" * 64]})


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a shard twice": lambda index: index["shards"].append(index["shards"][0]),
    "a track twice": first_track(id="shard000-1"),
    "a track of another shard": first_track(shard="shard001"),
    "negative frames": first_track(num_frames=-5),
    "fractional frames": first_track(num_frames=1100.0),
    "frames that are true": first_track(num_frames=True),
    "samples as text": first_track(num_samples="5"),
    "frames that overlap": lambda index: index["shards"][0]["tracks"][1].update(first_frame=0),
    "more frames than bytes": lambda index: (
        index["shards"][1].update(num_frames=10**9),
        index["shards"][1]["tracks"][0].update(num_frames=10**9),
        index["shards"][1].update(blocks={name: [0] * 976_563 for name in index["streams"]}),
    ),
    "more channels than bytes": lambda index: index["spec"].update(channels=4096),
    "another precision": lambda index: index.update(precision="float32"),
    "an unknown precision": lambda index: index.update(precision="object"),
    "an unknown storage": lambda index: index.update(storage="pickle"),
    "an unknown stream": lambda index: index["streams"].append("drums"),
    "a stream twice": lambda index: index["streams"].append("mono"),
    "a stream that is not in the list": lambda index: index["streams"].remove("mono"),
    "no specification": lambda index: index.update(spec=None),
    "a hop of zero": lambda index: index["spec"].update(hop=0),
    "statistics of other channels": first_statistics(mean=[0.0]),
    "statistics that are not finite": first_statistics(std=[float("nan")] * 8),
    "negative deviations": first_statistics(std=[-1.0] * 8),
    "a file above the cache": with_file("../x"),
    "a file by its whole path": with_file("/etc/passwd"),
    "a file of the cache itself": with_file("settings.json"),
    "a file of another shard": with_file("shards/shard001/mono/c/0/0"),
    "a file of Zarr's older format": with_file("shards/shard000/mono/.zarray"),
    "too few blocks": lambda index: index["shards"][0]["blocks"].update(mono=[1]),
    "blocks of what is no stream": lambda index: index["shards"][0]["blocks"].update(drums=[1, 2]),
    "a checksum that is none": lambda index: index["shards"][0]["blocks"].update(mono=[-1, 2**40]),
    "a digest that is none": lambda index: index["shards"][0]["files"].update(
        {name: [size, "x"] for name, (size, _) in index["shards"][0]["files"].items()}
    ),
    "a key with a path": first_shard(key="../a"),
    "a split that is none": first_track(split="training"),
    "an unknown field": lambda index: index.update(code="os:system"),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_an_index_that_contradicts_itself_is_refused(caches: dict[str, Path], storage: str, name: str) -> None:
    index = index_of(caches[storage])
    require_index(index, where="here", remedy="none")
    CONTRADICTIONS[name](index)
    with pytest.raises(CacheError, match="the index is damaged"):
        require_index(index, where="here", remedy="none")


def test_a_large_index_is_checked_within_two_seconds(caches: dict[str, Path]) -> None:
    """100,000 tracks in 1,000 shards."""
    index = index_of(caches["webdataset"])
    shard, frames = index["shards"][1], 200
    track = shard["tracks"][0]
    index["shards"] = [
        {
            "key": f"key{number}",
            "num_frames": frames * 100,
            "files": {f"shards/key{number}.tar": [10**8, "0" * 64]},
            "blocks": {name: [0] * 20 for name in index["streams"]},
            "tracks": [
                {**track, "id": f"{number}/{position}", "shard": f"key{number}", "first_frame": position * frames}
                for position in range(100)
            ],
        }
        for number in range(1_000)
    ]
    started = time.process_time()
    require_index(index, where="here", remedy="none")
    assert time.process_time() - started < 2.0


# What describes a Zarr shard


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "gzip": lambda d: d["codecs"].append({"name": "gzip", "configuration": {"level": 5}}),
    "gzip within": lambda d: d["codecs"][0]["configuration"]["codecs"].append({"name": "gzip", "configuration": {}}),
    "pickle": lambda d: d.update(codecs=[{"name": "numcodecs.pickle"}]),
    "more rows": lambda d: d.update(shape=[30_000_000, 8]),
    "larger chunks": lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2**31, 8]),
    "another type": lambda d: d.update(data_type="float32"),
    "objects": lambda d: d.update(data_type="object"),
    "another fill": lambda d: d.update(fill_value=0.0),
    "big endian": lambda d: d["codecs"][0]["configuration"]["codecs"][0].update(configuration={"endian": "big"}),
    "format 2": lambda d: d.update(zarr_format=2),
    "attributes": lambda d: d.update(attributes={"a": 1}),
    "format true": lambda d: d.update(shape=[True, 8]),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_that_is_not_ours_is_refused_unread(caches: dict[str, Path], tmp_path: Path, name: str) -> None:
    cache = Path(shutil.copytree(caches["zarr"], tmp_path / "cache"))
    description = cache / "shards" / "shard000" / "mono" / "zarr.json"
    values = json.loads(description.read_text())
    DESCRIPTIONS[name](values)
    description.write_text(json.dumps(values))
    opened = open_cache(reindexed(cache))
    with pytest.raises(CacheError, match="not a shard of this format"):
        everything(opened)
    assert [(finding.severity, finding.shard) for finding in verify_cache(opened)] == [("damage", "shard000")]


@pytest.mark.parametrize("name", [".zarray", ".zgroup"])
def test_a_description_in_the_older_format_beside_ours_is_refused(
    caches: dict[str, Path], tmp_path: Path, name: str
) -> None:
    cache = Path(shutil.copytree(caches["zarr"], tmp_path / "cache"))
    (cache / "shards" / "shard000" / "mono" / name).write_text('{"zarr_format": 2}')
    with pytest.raises(CacheError, match="not a shard of this format"):
        everything(open_cache(cache))


@pytest.mark.parametrize("inside", ["mono/c/0/0", "mono/zarr.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(caches: dict[str, Path], tmp_path: Path, inside: str) -> None:
    cache = Path(shutil.copytree(caches["zarr"], tmp_path / "cache"))
    file = cache / "shards" / "shard000" / inside
    opened = open_cache(cache)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CacheError, match="not a regular file"):
        everything(opened)
    assert any(finding.severity == "damage" for finding in verify_cache(opened))


@pytest.mark.parametrize("offset", [2**63, 5, 10**9])
def test_a_chunk_index_does_not_lead_out_of_its_file(caches: dict[str, Path], tmp_path: Path, offset: int) -> None:
    import google_crc32c

    cache = Path(shutil.copytree(caches["zarr"], tmp_path / "cache"))
    file = cache / "shards" / "shard000" / "mono" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    index = np.frombuffer(bytes(content[-36:-4]), "<u8").copy()
    index[0] = offset
    index[1] += offset == 5
    content[-36:-4] = index.tobytes()
    content[-4:] = google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(CacheError, match=r"(?s)not what the index says.*its index says that a chunk"):
        everything(open_cache(reindexed(cache)))


# Members of a tar


def rewritten(tar: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> None:
    with tarfile.open(tar) as opened:
        entries = [(entry, opened.extractfile(entry).read()) for entry in opened]  # type: ignore[union-attr]
    change(entries)
    with tarfile.open(tar, "w") as written:
        for entry, content in entries:
            entry.size = len(content)
            written.addfile(entry, io.BytesIO(content))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def replaced(array: np.ndarray) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]:
    return lambda entries: entries.__setitem__(0, (entries[0][0], npy(array)))


def as_link(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entry, _ = entries[0]
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    entries[0] = (entry, b"")


def as_sparse(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries[0][0].pax_headers = {"GNU.sparse.size": str(10**12), "GNU.sparse.map": "0,10"}


FRAMES = np.zeros((1100, 8), np.float16)
MEMBERS: dict[str, Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]] = {
    "a member more": lambda entries: entries.append((tarfile.TarInfo("x.npy"), npy(FRAMES))),
    "a member twice": lambda entries: entries.append(entries[0]),
    "a member fewer": lambda entries: entries.pop(),
    "a link": as_link,
    "a sparse file": as_sparse,
    "another type": replaced(FRAMES.astype(np.int16)),
    "another order": replaced(np.asfortranarray(FRAMES)),
    "another shape": replaced(FRAMES.reshape(8, 1100)),
    "objects": replaced(np.full((550, 8), None)),
    "no array": lambda entries: entries.__setitem__(0, (entries[0][0], b"text" * 4500)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_tar_with_anything_else_is_refused(caches: dict[str, Path], tmp_path: Path, name: str) -> None:
    cache = Path(shutil.copytree(caches["webdataset"], tmp_path / "cache"))
    rewritten(cache / "shards" / "shard000.tar", MEMBERS[name])
    with pytest.raises(CacheError, match=r"shard000"):
        everything(open_cache(reindexed(cache)))


# Anything at all


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))] if path or inner else [path]


def edited(values: Any, draw: Callable[..., Any]) -> Any:
    values = deepcopy(values)
    path = draw(st.sampled_from(places(values)[1:]))
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    if draw(st.booleans()) and isinstance(parent, dict):
        del parent[path[-1]]
    else:
        parent[path[-1]] = draw(VALUES)
    return values


LOOK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LOOK
@given(data=st.data(), storage=st.sampled_from(STORAGES))
def test_an_edited_index_is_refused_or_sound(
    caches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, storage: str
) -> None:
    index = edited(index_of(caches[storage]), data.draw)
    cache = tmp_path_factory.mktemp("edited")
    (cache / "shards").symlink_to(caches[storage] / "shards")
    (cache / "index.json").write_text(json.dumps(index))
    with suppress(CacheError):
        opened = open_cache(cache)
        assert all(np.isfinite(array).all() for array in everything(opened))
        verify_cache(opened)


@LOOK
@given(data=st.data(), inside=st.sampled_from(["zarr.json", "mono/zarr.json"]))
def test_an_edited_description_is_refused_or_sound(
    caches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, inside: str
) -> None:
    cache = Path(shutil.copytree(caches["zarr"], tmp_path_factory.mktemp("edited") / "cache"))
    file = cache / "shards" / "shard000" / inside
    file.write_text(json.dumps(edited(json.loads(file.read_text()), data.draw)))
    with suppress(CacheError):
        found = everything(open_cache(reindexed(cache)))
        expected = everything(open_cache(caches["zarr"]))
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@LOOK
@given(position=st.integers(0, 3_000), value=st.integers(0, 255))
def test_a_changed_byte_of_a_tar_is_refused_or_a_value(
    caches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    cache = Path(shutil.copytree(caches["webdataset"], tmp_path_factory.mktemp("edited") / "cache"))
    tar = cache / "shards" / "shard001.tar"
    content = bytearray(tar.read_bytes())
    content[position] = value
    tar.write_bytes(content)
    with suppress(CacheError):
        assert [len(array) for array in everything(open_cache(reindexed(cache)))] == [1100] * 4 + [300] * 4 + [200] * 4
