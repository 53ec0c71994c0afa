"""A finished latent cache: its index, and its streams as memory that a batch of windows is gathered from."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.mapping import Mapping, map_files
from reencoder_pipeline.tar_shards import read_members, sample_key
from reencoder_pipeline.tasks import Task
from reencoder_pipeline.zarr_shards import data_file, is_linear, read_zarr_stream

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "reencoder-cache-1"
INDEX = "index.json"


@dataclass(frozen=True)
class CachedTrack:
    """One track in a cache; its frames stand together in one shard, from `first_frame` of every stream there."""

    id: str
    split: str
    sha256: str
    num_samples: int
    num_frames: int
    tasks: tuple[str, ...]
    bandwidth_hz: float
    side_mid_db: float
    first_frame: int
    shard: str


@dataclass(frozen=True)
class Shard:
    """One unit of work and of commitment. `files` maps a path below the cache to (bytes, sha256); `blocks` holds the
    crc32c of every 1,024 frames of a stream."""

    key: str
    num_frames: int
    tracks: tuple[CachedTrack, ...]
    files: dict[str, tuple[int, str]]
    blocks: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Statistics:
    """Per channel of one stream, over the frames of the train split; both (C,) float32."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]


class LatentCache:
    """Opened by `open_cache`. The data is mapped at the first gather: looking at an index alone costs nothing."""

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self.path = path
        self.digest = canonical_digest(index)
        self.storage: str = index["storage"]
        self.precision: str = index["precision"]
        self.low_band: dict[str, Any] = index["low_band"]
        self.streams: tuple[str, ...] = tuple(index["streams"])
        self.notes: tuple[str, ...] = tuple(index.get("notes", ()))  # what is particular about how they were made
        self.spec = LatentSpec.from_dict(index["spec"], where=path)
        self.shards = tuple(shard_from_dict(values) for values in index["shards"])
        self.tracks = tuple(track for shard in self.shards for track in shard.tracks)
        self.statistics = {
            name: Statistics(np.asarray(values["mean"], np.float32), np.asarray(values["std"], np.float32))
            for name, values in index["statistics"].items()
        }
        self._mapping: Mapping | None = None
        self._first_values: dict[tuple[str, str], int] = {}

    def select(self, task: Task, *, split: str) -> tuple[CachedTrack, ...]:
        """The tracks of a split that suit a task, in index order. CacheError when the cache cannot serve the task."""
        if missing := [name for name in task.streams if name not in self.streams]:
            raise CacheError(
                f"the cache lacks streams that {task.name} needs",
                where=self.path,
                value=", ".join(missing),
                remedy="build it with `streams` that hold them",
            )
        chosen = tuple(track for track in self.tracks if track.split == split and task.name in track.tasks)
        if not chosen:
            splits = {name: sum(track.split == name for track in self.tracks) for name in ("train", "valid", "test")}
            raise CacheError(
                f"no track of the {split} split suits {task.name}",
                where=self.path,
                value=f"tracks in the splits: {splits}",
                remedy="`reencoder-cache inspect` shows what was measured of each track; "
                "build with `--set tasks=[bwe,m2s]` to take every track for these tasks",
            )
        return chosen

    def addresses(self, tracks: Sequence[CachedTrack], stream: str) -> NDArray[np.int64]:
        """(len(tracks),): position of each track's frame 0; frame t of it is at address + t * spec.channels."""
        self._map()
        return np.array([self._address(track, stream) for track in tracks], dtype=np.int64)

    def gather(self, addresses: NDArray[np.int64], *, num_frames: int) -> Tensor:
        """(B,) addresses -> (B, num_frames, C) in the stored precision: one index_select over all shards at once."""
        import torch

        values = self._map().values
        width = num_frames * self.spec.channels
        windows = values.as_strided((len(values) - width + 1, width), (1, 1))
        return windows.index_select(0, torch.from_numpy(addresses)).view(-1, num_frames, self.spec.channels)

    def read(self, track: CachedTrack, stream: str) -> NDArray[Any]:
        """A whole track, (frames, channels), copied."""
        return self.gather(self.addresses([track], stream), num_frames=track.num_frames)[0].numpy()

    def _address(self, track: CachedTrack, stream: str) -> int:
        if self.storage == "webdataset":
            return self._first_values[track.id, stream]
        return self._first_values[track.shard, stream] + track.first_frame * self.spec.channels

    def _map(self) -> Mapping:
        if self._mapping is None:
            if self.storage == "zarr":
                self._mapping = self._map_zarr()
            else:
                self._mapping = self._map_tars()
        return self._mapping

    def _map_zarr(self) -> Mapping:
        names = [(shard, stream) for shard in self.shards for stream in self.streams]
        files = [data_file(self.path / "shards" / shard.key, stream) for shard, stream in names]
        frame_bytes = self.spec.channels * np.dtype(self.precision).itemsize
        linear = all(
            is_linear(file, num_frames=shard.num_frames, frame_bytes=frame_bytes)
            for file, (shard, _) in zip(files, names, strict=True)
        )
        if linear:
            mapping = map_files(files, dtype=np.dtype(self.precision))
        else:
            warnings.warn(
                f"{self.path}: some shards are not laid out as frames in order (another writer?); "
                "reading everything through Zarr into memory instead",
                stacklevel=2,
            )
            folders = [self.path / "shards" / shard.key for shard, _ in names]
            arrays = [read_zarr_stream(folder, stream) for folder, (_, stream) in zip(folders, names, strict=True)]
            mapping = Mapping.of_arrays(arrays, dtype=np.dtype(self.precision))
        self._first_values = {
            (shard.key, stream): start for (shard, stream), start in zip(names, mapping.starts, strict=True)
        }
        return mapping

    def _map_tars(self) -> Mapping:
        files = [self.path / "shards" / f"{shard.key}.tar" for shard in self.shards]
        itemsize = np.dtype(self.precision).itemsize
        mapping = map_files(files, dtype=np.dtype(self.precision))
        for shard, file, start in zip(self.shards, files, mapping.starts, strict=True):
            members = read_members(file)
            for position, track in enumerate(shard.tracks):
                for stream in self.streams:
                    name = f"{sample_key(position, track.id)}.{stream}.npy"
                    member = members.get(name)
                    expected = (track.num_frames, self.spec.channels)
                    if member is None or (member.shape, member.dtype) != (expected, np.dtype(self.precision)):
                        raise CacheError(
                            "a shard's member is not what the index says", where=file, value=name, remedy=REBUILD
                        )
                    self._first_values[track.id, stream] = start + member.offset // itemsize
        return mapping


AGAIN = "run the same `reencoder-cache build` again: it goes on where it stopped"
REBUILD = "`reencoder-cache verify --discard` forgets damaged shards; then run the same `reencoder-cache build` again"


def open_cache(path: Path) -> LatentCache:
    """Read the index and check that every file it names is there in full size. CacheError otherwise."""
    cache = open_index(path)
    for shard in cache.shards:
        for name, (size, _) in shard.files.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                found = f"{file.stat().st_size} bytes instead of {size}" if file.is_file() else "missing"
                raise CacheError("a shard is damaged", where=file, value=found, remedy=REBUILD)
    return cache


def open_index(path: Path) -> LatentCache:
    """Read the index only; the data may be damaged or gone."""
    index_file = path / INDEX
    if not index_file.is_file():
        begun = (path / "settings.json").exists()
        raise CacheError(
            "the latent cache is not complete" if begun else "no latent cache here",
            where=path,
            remedy=AGAIN if begun else None,
        )
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        if index.get("format") != FORMAT:
            raise CacheError("a cache of another format", where=index_file, value=index.get("format"))
        promised = index.pop("digest", None)
        cache = LatentCache(path, index)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError("the index is damaged", where=index_file, value=repr(error), remedy=AGAIN) from None
    if promised not in (None, cache.digest):
        value = f"its digest is {cache.digest}, not {promised}"
        raise CacheError("the index is damaged", where=index_file, value=value, remedy=AGAIN)
    return cache


def canonical_digest(value: Any) -> str:
    """sha256 of a description, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def shard_to_dict(shard: Shard) -> dict[str, Any]:
    return asdict(shard)


def shard_from_dict(values: dict[str, Any]) -> Shard:
    """The inverse of shard_to_dict; paths are checked, an index is not trusted."""
    if Path(values["key"]).name != values["key"]:
        raise CacheError("a shard's key is not a file's name", value=values["key"])
    for name in values["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CacheError("a shard's file lies outside its cache", value=name)
    return Shard(
        key=values["key"],
        num_frames=values["num_frames"],
        tracks=tuple(CachedTrack(**{**track, "tasks": tuple(track["tasks"])}) for track in values["tracks"]),
        files={name: (size, digest) for name, (size, digest) in values["files"].items()},
        blocks={stream: tuple(sums) for stream, sums in values["blocks"].items()},
    )
