"""The frames of a cache's shards in one address range: mapped when they are asked for; a batch is one gather."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.address_range import AddressRange, Buffers, gather
from reencoder_pipeline.cache.block_checks import BlockChecks
from reencoder_pipeline.cache.formats.int8 import is_scale, scale_name, stored_names
from reencoder_pipeline.cache.formats.tar_shards import (
    Promised,
    promised_members,
    read_members,
    read_tar_stream,
    sample_key,
)
from reencoder_pipeline.cache.formats.zarr_shards import is_linear, read_zarr_stream, require_own_format
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import require_regular

if TYPE_CHECKING:
    from torch import Tensor

    from reencoder_pipeline.cache.index import CachedTrack, Shard


Fetch = Callable[[Mapping[str, tuple[int, str]]], None]

REBUILD = "`reencoder-cache verify --discard` forgets damaged shards; then run the same `reencoder-cache build` again"
COLD_GATHERS = 256


def data_name(storage: str, key: str, stream: str) -> str:
    """The file, below the cache, with the frames of a stream of a shard; of a tar, with those of all streams."""
    return f"shards/{key}.tar" if storage == "webdataset" else f"shards/{key}/{stream}/c/0/0"


class MappedShards:
    """Frames of the cache in `folder`, by address. A place in the range is one data file.

    `fetch` brings files to the folder where they are not there from the beginning. With `checked`, the first gather
    that touches 1,024 frames compares them with their checksum in the index.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        *,
        storage: str,
        streams: Sequence[str],
        precision: str,
        channels: int,
        fetch: Fetch | None,
        checked: bool,
    ) -> None:
        self._folder, self._storage, self._fetch = folder, storage, fetch
        self._streams, self._dtype, self._channels = streams, np.dtype(precision), channels
        self._shards = {shard.key: shard for shard in shards if shard.tracks}
        # Stream by stream, so that what a task maps stands together: the kernel counts pieces, and allows 65,530.
        names = dict.fromkeys(data_name(storage, key, stream) for stream in streams for key in self._shards)
        self._places = {name: number for number, name in enumerate(names)}
        self._range = AddressRange(self._sizes(streams), dtype=self._dtype)
        self._prepared: set[tuple[str, str]] = set()  # shard, stream
        self._addresses: dict[tuple[str, str, str], int] = {}  # shard, track, stream -> where the track begins
        self._scales: dict[tuple[str, str], dict[str, NDArray[np.float32]]] = {}  # shard, array -> track -> (channels,)
        self._checks = BlockChecks(self._range.values, channels=channels) if checked else None
        self._buffers = Buffers()
        self._cold = 0

    def prepare(self, tracks: Iterable[CachedTrack], streams: Sequence[str]) -> None:
        """Fetch what is not here and map it. Nothing happens for what was prepared before."""
        keys = dict.fromkeys(track.shard for track in tracks)
        new = [(key, stream) for stream in streams for key in keys if (key, stream) not in self._prepared]
        if not new:
            return
        stored = [(key, name) for key, stream in new for name in stored_names([stream], str(self._dtype))]
        names = dict.fromkeys(data_name(self._storage, *each) for each in stored)
        if self._fetch is not None:
            self._fetch({name: file for key in keys for name, file in self._shards[key].files.items() if name in names})
        if self._storage == "webdataset":
            for key in dict.fromkeys(key for key, _ in new):
                self._map_tar(self._shards[key])
        else:
            for key, stream in new:
                self._map_zarr(self._shards[key], stream)
        for key, name in stored:
            if is_scale(name):
                self._scales[key, name] = self._read_scales(self._shards[key], name)
        self._prepared.update(new)
        if self._checks is not None:
            shards = [(self._shards[key], stream) for key, stream in new]
            self._checks.add([(shard, stream, self._starts(shard, stream)) for shard, stream in shards])

    def address(self, track: CachedTrack, stream: str) -> int:
        return self._addresses[track.shard, track.id, stream]

    def scale(self, track: CachedTrack, stream: str) -> NDArray[np.float32]:
        """(channels,) of an int8 cache."""
        return self._scales[track.shard, scale_name(stream)][track.id]

    @property
    def is_cold(self) -> bool:
        return self._cold > 0

    def will_need(self, addresses: NDArray[np.int64], *, num_frames: int) -> None:
        self._range.will_need(addresses, width=num_frames * self._channels)

    def gather(self, addresses: NDArray[np.int64], *, num_frames: int) -> Tensor:
        """(B,) addresses -> (B, num_frames, C). CacheError where `checked` finds damage."""
        if self._checks is not None:
            self._checks.require_sound(addresses, num_frames=num_frames)
        if self._cold:
            self._cold -= 1
            self.will_need(addresses, num_frames=num_frames)
        before = _faults()
        windows = gather(
            self._range.values, addresses, num_frames=num_frames, channels=self._channels, buffers=self._buffers
        )
        if _faults() > before:
            self._cold = COLD_GATHERS
        return windows

    @property
    def _copied(self) -> bool:
        """Whether the files are copies, of which only those that hold frames are here: nothing describes them."""
        return self._fetch is not None

    def _promised(self, shard: Shard) -> Promised:
        tracks = [(track.id, track.num_frames) for track in shard.tracks]
        names = stored_names(self._streams, str(self._dtype))
        return promised_members(tracks, names, channels=self._channels, dtype=self._dtype)

    def _starts(self, shard: Shard, stream: str) -> NDArray[np.int64]:
        return np.array([self.address(track, stream) for track in shard.tracks], dtype=np.int64)

    def _sizes(self, streams: Sequence[str]) -> list[int]:
        """Bytes of each place: of the file, or of its frames, for a file that is not linear may be smaller."""
        frame_bytes = self._channels * self._dtype.itemsize
        sizes = dict.fromkeys(self._places, 0)
        for key, shard in self._shards.items():
            for name in {data_name(self._storage, key, stream) for stream in streams}:
                sizes[name] = max(shard.num_frames * frame_bytes, shard.files.get(name, (0, ""))[0])
        return list(sizes.values())

    def _map_zarr(self, shard: Shard, stream: str) -> None:
        name = data_name(self._storage, shard.key, stream)
        file, number = self._folder / name, self._places[name]
        frame_bytes = self._channels * self._dtype.itemsize
        folder, shape = self._folder / "shards" / shard.key, (shard.num_frames, self._channels)
        require_regular(file, kind=CacheError, what="file of a shard")
        if not self._copied:
            require_own_format(folder, stream, shape=shape, dtype=self._dtype)
        if is_linear(file, num_frames=shard.num_frames, frame_bytes=frame_bytes):
            self._range.map_file(number, file)
        else:  # Zarr promises no order of the chunks in a file; in order, they need not be copied into memory
            frames = read_zarr_stream(
                folder, stream, rows=shard.num_frames, channels=self._channels, dtype=self._dtype, described=False
            )
            self._range.fill(number, frames)
        for track in shard.tracks:
            address = self._range.starts[number] + track.first_frame * self._channels
            self._addresses[shard.key, track.id, stream] = address

    def _map_tar(self, shard: Shard) -> None:
        name = data_name(self._storage, shard.key, "")
        file, number = self._folder / name, self._places[name]
        members = read_members(file, self._promised(shard))
        for position, track in enumerate(shard.tracks):
            for stream in self._streams:
                member = members[f"{sample_key(position, track.id)}.{stream}.npy"]
                address = self._range.starts[number] + member.offset // self._dtype.itemsize
                self._addresses[shard.key, track.id, stream] = address
        self._range.map_file(number, file)

    def _read_scales(self, shard: Shard, name: str) -> dict[str, NDArray[np.float32]]:
        """Track -> (channels,); few, and so always compared with their checksum."""
        from reencoder_pipeline.cache.formats.checksums import block_checksums

        file = self._folder / data_name(self._storage, shard.key, name)
        if self._storage == "webdataset":
            scales = read_tar_stream(file, self._promised(shard), name)
        else:
            scales = read_zarr_stream(
                self._folder / "shards" / shard.key, name, rows=len(shard.tracks), channels=self._channels,
                dtype=np.dtype(np.float32), described=not self._copied,
            )  # fmt: skip
        if block_checksums(scales) != shard.blocks.get(name):
            raise CacheError("scales are not what the index says", where=file, value=name, remedy=REBUILD)
        return {track.id: scale for track, scale in zip(shard.tracks, scales, strict=True)}


def _faults() -> int:
    """Page faults of this process that waited for a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
