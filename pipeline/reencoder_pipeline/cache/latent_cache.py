"""A finished latent cache: its index, and its streams as memory that a batch of windows is gathered from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.channel_sums import Sums, moments
from reencoder_pipeline.cache.formats.compression import Compression
from reencoder_pipeline.cache.formats.int8 import INT8, latents_of, scale_name
from reencoder_pipeline.cache.index import CachedTrack, Statistics, shard_from_dict
from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.cache.mapped_shards import Fetch, MappedShards
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import Task

if TYPE_CHECKING:
    from torch import Tensor


class LatentCache:
    """A finished cache, opened by `open_cache`. Frames are mapped when they are first needed: an index alone is cheap.

    `origin` is the path or URL it was opened by. `path` is the folder of its files; for a URL, of their local copies.

    Mapped files need not fit in memory: the kernel keeps the pages that were used last. When a gather hits pages that
    are not in memory, the next 256 gathers read exactly their pages with one system call before they copy. On one disk,
    with nothing in memory, that was 15 times faster than page faults at 60 frames and 8 times at 172. Windows are
    rounded to pages of 4 KB, so the disk reads 1.5 times their bytes at 60 frames and 1.2 times at 172; page faults
    made it read 68 and 24 times as much. Compressed shards are decoded into memory instead.

    Example::

        cache = open_cache("out/cache/debian_music")
        latents = cache.read(cache.tracks[0], "mono")  # (frames, channels)
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
        self.notes: tuple[str, ...] = tuple(index.get("notes", ()))  # what is special about these latents
        self.spec = LatentSpec.from_dict(index["spec"], where=self.origin)
        compression = index.get("compression")
        self.format = ShardFormat(
            self.storage, self.streams, self.precision, self.spec.channels,
            None if compression is None else Compression(**compression),
        )  # fmt: skip
        self.keep_bits: int | None = index.get("keep_bits")  # of mantissa, where latents were rounded
        self.shards = tuple(shard_from_dict(values) for values in index["shards"])
        self.tracks = tuple(track for shard in self.shards for track in shard.tracks)
        self.statistics = {name: Statistics.of(values) for name, values in index["statistics"].items()}
        self.sums = [
            (tuple(group["tasks"]), {name: Sums.from_dict(sums) for name, sums in group["streams"].items()})
            for group in index.get("sums", ())
        ]
        self._fetch, self._checked = fetch, checked

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
            remedy = (
                "`reencoder-cache inspect --tracks` shows what was measured of each track; "
                "build with `--set tasks=[bwe,m2s]` to take every track for these tasks"
            )
            if not splits.get(split):
                remedy = "build from more music, or from a manifest with a `split` for each track"
            raise CacheError(
                f"no track of the {split} split suits {task.name}",
                where=self.origin, value=f"tracks in the splits: {splits}", remedy=remedy,
            )  # fmt: skip
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
        """Fetch and map these streams of the shards of these tracks, all at once."""
        self._frames.prepare(tracks, streams)

    def addresses(self, tracks: Sequence[CachedTrack], stream: str) -> NDArray[np.int64]:
        """(len(tracks),): position of each track's frame 0; frame t of it is at address + t * spec.channels."""
        self.prepare(tracks, [stream])
        return np.array([self._frames.address(track, stream) for track in tracks], dtype=np.int64)

    def gather(self, addresses: NDArray[np.int64], *, num_frames: int) -> Tensor:
        """(B,) addresses -> (B, num_frames, C) in the stored precision: one index_select over all shards at once."""
        return self._frames.gather(addresses, num_frames=num_frames)

    @property
    def is_cold(self) -> bool:
        """Whether one of the last gathers hit pages that were not in memory."""
        return self._frames.is_cold

    def read_ahead(self, addresses: NDArray[np.int64], *, num_frames: int) -> None:
        """Let the disk read the windows that are gathered next. This pays where the cache `is_cold`."""
        self._frames.will_need(addresses, num_frames=num_frames)

    def scales(self, tracks: Sequence[CachedTrack], stream: str) -> NDArray[np.float32] | None:
        """(len(tracks), C) factors for the gathered frames of these tracks; None unless the cache is int8."""
        if self.precision != INT8:
            return None
        self.prepare(tracks, [stream])
        return np.stack([self._frames.scale(track, stream) for track in tracks])

    def read(self, track: CachedTrack, stream: str) -> NDArray[Any]:
        """A whole track, (frames, channels), copied; float32 from int8."""
        return latents_of(self.read_stored(track, stream), stream)

    def read_stored(self, track: CachedTrack, stream: str) -> dict[str, NDArray[Any]]:
        """The stored arrays of a whole track: the stream's frames and, for int8, its (1, C) scales."""
        frames = self.gather(self.addresses([track], stream), num_frames=track.num_frames)[0].numpy()
        scales = self.scales([track], stream)
        return {stream: frames} if scales is None else {stream: frames, scale_name(stream): scales}

    @cached_property
    def _frames(self) -> MappedShards:
        return MappedShards(self.path, self.shards, self.format, fetch=self._fetch, checked=self._checked)
