"""A finished latent cache: its index, and its streams as memory that a batch of windows is gathered from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.channel_sums import Sums, moments
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.index_schema import require_index, require_shard
from reencoder_pipeline.int8_frames import INT8, latents_of, scale_name
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shard_mapping import REBUILD, Fetch, MappedShards, data_name
from reencoder_pipeline.store import is_url, open_store
from reencoder_pipeline.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor

    from reencoder_pipeline.read_through import Progress

FORMAT = "reencoder-cache-1"
INDEX = "index.json"
OLD_FLOOR = float(np.sqrt(1e-8))


@dataclass(frozen=True)
class CachedTrack:
    """One track in a cache; its frames stand together in one shard, from `first_frame` of every stream there."""

    id: str
    split: str
    sha256: str
    num_samples: int
    num_frames: int
    tasks: tuple[str, ...]
    bandwidth_hz: float | None  # None: not known, of imported latents
    side_mid_db: float | None
    first_frame: int
    shard: str
    level_db: float | None = None  # mean power and largest sample of its audio, full scale = 0 dB; None: not known
    peak_db: float | None = None


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

    @classmethod
    def of(cls, values: Mapping[str, Sequence[float]]) -> Statistics:
        """As an index has them. A channel that never changes has deviation 0; older indexes say OLD_FLOOR."""
        std = np.asarray(values["std"], np.float64)
        return cls(np.asarray(values["mean"], np.float32), np.where(std == OLD_FLOOR, 0.0, std).astype(np.float32))

    @property
    def scale(self) -> NDArray[np.float32]:
        """What to divide by: the deviation, and 1 for a channel that never changes."""
        return np.where(self.std > 0, self.std, np.float32(1))


class LatentCache:
    """Opened by `open_cache`. The data is mapped when a stream is asked for: looking at an index alone costs nothing.

    `origin` is the path or URL it was opened by; `path` the folder of its files, of a URL that of their local copies.

    Mapped files need not fit in memory: the kernel keeps what was used lately. After a gather that met pages which were
    not there, the next 256 have theirs read beforehand, all at once and nothing else: 15 times faster than page faults
    at 60 frames, 8 times at 172 (one disk, nothing in memory). Windows are rounded to pages of 4 KB, so the disk reads
    1.5 times their bytes at 60 frames, 1.2 times at 172; page faults made it read 68 and 24 times as much.
    """

    def __init__(
        self,
        path: Path,
        index: dict[str, Any],
        *,
        origin: str | None = None,
        fetch: Fetch | None = None,
        checked: bool = False,
    ) -> None:
        self.path, self.origin = path, origin or str(path)
        self.digest = canonical_digest(index)
        self.storage: str = index["storage"]
        self.precision: str = index["precision"]
        self.low_band: dict[str, Any] = index["low_band"]
        self.streams: tuple[str, ...] = tuple(index["streams"])
        self.notes: tuple[str, ...] = tuple(index.get("notes", ()))  # what is particular about how they were made
        self.spec = LatentSpec.from_dict(index["spec"], where=self.origin)
        self.shards = tuple(_shard(values) for values in index["shards"])
        self.tracks = tuple(track for shard in self.shards for track in shard.tracks)
        self.statistics = {name: Statistics.of(values) for name, values in index["statistics"].items()}
        self.sums = [
            (tuple(group["tasks"]), {name: Sums.from_dict(sums) for name, sums in group["streams"].items()})
            for group in index.get("sums", ())
        ]
        self._fetch, self._checked = fetch, checked
        self._mapped: MappedShards | None = None

    def select(self, task: Task, *, split: str) -> tuple[CachedTrack, ...]:
        """The tracks of a split that suit a task, in index order. CacheError when the cache cannot serve the task."""
        if missing := [name for name in task.streams if name not in self.streams]:
            raise CacheError(
                f"the cache lacks streams that {task.name} needs",
                where=self.origin,
                value=", ".join(missing),
                remedy="build it with `streams` that hold them",
            )
        chosen = tuple(track for track in self.tracks if track.split == split and task.name in track.tasks)
        if not chosen:
            splits = {name: sum(track.split == name for track in self.tracks) for name in ("train", "valid", "test")}
            raise CacheError(
                f"no track of the {split} split suits {task.name}",
                where=self.origin,
                value=f"tracks in the splits: {splits}",
                remedy="`reencoder-cache inspect` shows what was measured of each track; "
                "build with `--set tasks=[bwe,m2s]` to take every track for these tasks",
            )
        return chosen

    def statistics_of(self, task: Task) -> dict[str, Statistics] | None:
        """Per stream, over the tracks of the train split that serve a task. None where an older index does not say.

        Tracks that are shorter than a training's window count too.
        """
        trained = [track for track in self.tracks if track.split == "train"] or self.tracks
        if all(task.name in track.tasks for track in trained):
            return self.statistics
        parts = [streams for tasks, streams in self.sums if task.name in tasks]
        if not parts:
            return None
        return {name: Statistics.of(moments([part[name] for part in parts])) for name in self.streams}

    def prepare(self, tracks: Sequence[CachedTrack], streams: Sequence[str]) -> None:
        """Fetch and map these streams of the shards of these tracks, at once; `addresses` does it one by one."""
        self._frames().prepare(tracks, streams)

    def addresses(self, tracks: Sequence[CachedTrack], stream: str) -> NDArray[np.int64]:
        """(len(tracks),): position of each track's frame 0; frame t of it is at address + t * spec.channels."""
        self.prepare(tracks, [stream])
        return np.array([self._frames().address(track, stream) for track in tracks], dtype=np.int64)

    def gather(self, addresses: NDArray[np.int64], *, num_frames: int) -> Tensor:
        """(B,) addresses -> (B, num_frames, C) in the stored precision: one index_select over all shards at once."""
        return self._frames().gather(addresses, num_frames=num_frames)

    @property
    def is_cold(self) -> bool:
        """Whether gathers have met pages that were not in memory, lately."""
        return self._frames().is_cold

    def read_ahead(self, addresses: NDArray[np.int64], *, num_frames: int) -> None:
        """Say what is gathered next, so that the disk reads it meanwhile. Pays where the cache is cold."""
        self._frames().will_need(addresses, num_frames=num_frames)

    def scales(self, tracks: Sequence[CachedTrack], stream: str) -> NDArray[np.float32] | None:
        """(len(tracks), C) that what is gathered of these tracks is to be multiplied by; None unless it is int8."""
        if self.precision != INT8:
            return None
        self.prepare(tracks, [stream])
        return np.stack([self._frames().scale(track, stream) for track in tracks])

    def read(self, track: CachedTrack, stream: str) -> NDArray[Any]:
        """A whole track, (frames, channels), copied; of int8, float32."""
        return latents_of(self.read_stored(track, stream), stream)

    def read_stored(self, track: CachedTrack, stream: str) -> dict[str, NDArray[Any]]:
        """A whole track as it is stored: the stream's frames by its name and, of int8, (1, C) scales by theirs."""
        frames = self.gather(self.addresses([track], stream), num_frames=track.num_frames)[0].numpy()
        scales = self.scales([track], stream)
        return {stream: frames} if scales is None else {stream: frames, scale_name(stream): scales}

    def data_name(self, shard: Shard, stream: str) -> str:
        """The file, below the cache, that holds a stream of a shard."""
        return data_name(self.storage, shard.key, stream)

    def _frames(self) -> MappedShards:
        if self._mapped is None:
            self._mapped = MappedShards(
                self.path, self.shards, storage=self.storage, streams=self.streams, precision=self.precision,
                channels=self.spec.channels, fetch=self._fetch, checked=self._checked,
            )  # fmt: skip
        return self._mapped


AGAIN = "run the same `reencoder-cache build` again: it goes on where it stopped"


def open_cache(
    place: Path | str,
    *,
    checked: bool = False,
    local_folder: Path | None = None,
    local_gigabytes: float | None = None,
    progress: Progress | None = None,
) -> LatentCache:
    """Read the index of a cache in a folder or behind a URL (s3://bucket/cache). CacheError if it is not complete.

    In a folder, every file that the index names has to be there in full size. From a URL, files come when a stream of
    theirs is asked for, into copies below `local_folder` (by default the user's cache directory); these stay within
    `local_gigabytes`, and `progress` is told bytes (see read_through). Their digests are checked on arrival.

    `checked`: every 1,024 frames are compared with their checksum when a gather first touches them, so that no flipped
    bit gets through; CacheError names the frames.
    """
    place = str(place).removeprefix("file://")
    if is_url(place):
        from reencoder_pipeline.read_through import LocalCopy

        limit = None if local_gigabytes is None else round(local_gigabytes * 1e9)
        index, url = _read_index(place), place.rstrip("/")
        copy = LocalCopy(url, canonical_digest(index), root=local_folder, limit=limit, progress=progress)
        return _described(copy.folder, index, place=url, fetch=copy.fetch, checked=checked)
    path = Path(place)
    cache = _described(path, _read_index(path), place=str(path), checked=checked)
    for shard in cache.shards:
        for name, (size, _) in shard.files.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                found = f"{file.stat().st_size} bytes instead of {size}" if file.is_file() else "missing"
                raise CacheError("a shard is damaged", where=file, value=found, remedy=REBUILD)
    return cache


def open_index(place: Path | str) -> LatentCache:
    """Read the index only; in a folder, the data may be damaged or gone."""
    if is_url(place):
        return open_cache(place)
    return _described(Path(place), _read_index(place), place=str(place))


def _read_index(place: Path | str) -> dict[str, Any]:
    """The index of a finished cache, its own digest checked and taken out."""
    store, where = open_store(place), f"{str(place).rstrip('/')}/{INDEX}"
    try:
        content = store.read(INDEX)
    except OSError as error:
        raise CacheError("the index cannot be read", where=where, value=error) from None
    if content is None:
        begun = store.size("settings.json") is not None
        raise CacheError(
            "the latent cache is not complete" if begun else "no latent cache here",
            where=place,
            remedy=AGAIN if begun else f"give the folder that a build has written: it holds {INDEX}",
        )
    try:
        index = json.loads(content)
        if index.get("format") != FORMAT:
            raise CacheError("a cache of another format", where=where, value=index.get("format"))
        promised = index.pop("digest", None)
        found = canonical_digest(index)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError("the index is damaged", where=where, value=repr(error)[:200], remedy=AGAIN) from None
    if promised not in (None, found):
        value = f"its digest is {found}, not {promised}"
        raise CacheError("the index is damaged", where=where, value=value, remedy=AGAIN)
    return index


def _described(
    path: Path, index: dict[str, Any], *, place: str, fetch: Fetch | None = None, checked: bool = False
) -> LatentCache:
    try:
        require_index(index, where=f"{place}/{INDEX}", remedy=AGAIN)
        return LatentCache(path, index, origin=place, fetch=fetch, checked=checked)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError("the index is damaged", where=f"{place}/{INDEX}", value=repr(error), remedy=AGAIN) from None


def canonical_digest(value: Any) -> str:
    """sha256 of a description, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def shard_to_dict(shard: Shard) -> dict[str, Any]:
    values = asdict(shard)
    for track in values["tracks"]:
        for name in ("level_db", "peak_db"):  # of shards made before these were measured, nothing changes
            if track[name] is None:
                del track[name]
    return values


def shard_from_dict(values: dict[str, Any]) -> Shard:
    """The inverse of shard_to_dict. CacheError where it contradicts itself or names files of others."""
    require_shard(values)
    return _shard(values)


def _shard(values: dict[str, Any]) -> Shard:
    return Shard(
        key=values["key"],
        num_frames=values["num_frames"],
        tracks=tuple(CachedTrack(**{**track, "tasks": tuple(track["tasks"])}) for track in values["tracks"]),
        files={name: (size, digest) for name, (size, digest) in values["files"].items()},
        blocks={stream: tuple(sums) for stream, sums in values["blocks"].items()},
    )
