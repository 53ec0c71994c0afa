"""Maps or decodes the frames of a cache's shards into one address range when they are first needed."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.address_range import AddressRange, gather
from reencoder_pipeline.cache.block_checks import BlockChecks
from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.int8 import is_scale, scale_name, stored_names
from reencoder_pipeline.cache.formats.tar_shards import read_members, sample_key
from reencoder_pipeline.cache.formats.zarr_description import require_own_format
from reencoder_pipeline.cache.formats.zarr_shards import is_linear
from reencoder_pipeline.cache.layout import ShardFormat, group_name
from reencoder_pipeline.cache.shard_frames import arrays_on_disk, members_of
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import require_regular

if TYPE_CHECKING:
    from torch import Tensor

    from reencoder_pipeline.cache.index import CachedTrack, Shard


Fetch = Callable[[Mapping[str, tuple[int, str]]], None]

REBUILD = "`reencoder-cache verify --discard` forgets damaged shards; then run the same `reencoder-cache build` again"
COLD_GATHERS = 256


class MappedShards:
    """The frames of the cache in `folder`, by address. A place in the range is one data file.

    `fetch` brings files to the folder, for a cache behind a URL. With `checked`, the first gather from a block of 1,024
    frames compares it with its checksum in the index.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        form: ShardFormat,
        *,
        fetch: Fetch | None,
        checked: bool,
    ) -> None:
        self._folder, self._form, self._fetch, self._channels = folder, form, fetch, form.channels
        self._shards = {shard.key: shard for shard in shards if shard.tracks}
        # Stream by stream, so that the maps of a task are neighbours: the kernel allows 65,530 separate ones.
        names = dict.fromkeys(form.data_name(key, stream) for stream in form.streams for key in self._shards)
        self._places = {name: number for number, name in enumerate(names)}
        self._range = AddressRange(self._sizes(), dtype=form.dtype)
        self._prepared: set[tuple[str, str]] = set()  # shard, stream
        self._addresses: dict[tuple[str, str, str], int] = {}  # shard, track, stream -> where the track begins
        self._scales: dict[tuple[str, str], dict[str, NDArray[np.float32]]] = {}  # shard, array -> track -> (channels,)
        self._checks = BlockChecks(self._range.values, channels=form.channels) if checked else None
        self._cold = 0

    def prepare(self, tracks: Iterable[CachedTrack], streams: Sequence[str]) -> None:
        """Fetch and map these streams of the tracks' shards, except those that were prepared before."""
        keys = dict.fromkeys(track.shard for track in tracks)
        new = [(key, stream) for stream in streams for key in keys if (key, stream) not in self._prepared]
        if not new:
            return
        stored = [(key, name) for key, stream in new for name in stored_names([stream], self._form.precision)]
        names = dict.fromkeys(self._form.data_name(*each) for each in stored)
        if self._fetch is not None:
            self._fetch({name: file for key in keys for name, file in self._shards[key].files.items() if name in names})
        if self._form.storage == "webdataset":
            for key in dict.fromkeys(key for key, _ in new):
                self._map_tar(self._shards[key])
        else:
            for key, name in stored:
                if is_scale(name):
                    self._keep_scales(self._shards[key], name, self._read(self._shards[key], name))
                else:
                    self._map_zarr(self._shards[key], name)
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
        windows = gather(self._range.values, addresses, num_frames=num_frames, channels=self._channels)
        if _faults() > before:
            self._cold = COLD_GATHERS
        return windows

    @property
    def _copied(self) -> bool:
        """Whether the files are local copies: only files with frames are copied, without their descriptions."""
        return self._fetch is not None

    def _starts(self, shard: Shard, stream: str) -> NDArray[np.int64]:
        return np.array([self.address(track, stream) for track in shard.tracks], dtype=np.int64)

    def _sizes(self) -> list[int]:
        """Bytes of each place: of the file, or of its frames, which a file that is not mapped need not reach."""
        frame_bytes, sizes = self._channels * self._form.dtype.itemsize, dict.fromkeys(self._places, 0)
        for key, shard in self._shards.items():
            for name in {self._form.data_name(key, stream) for stream in self._form.streams}:
                sizes[name] = max(shard.num_frames * frame_bytes, shard.files.get(name, (0, ""))[0])
        return list(sizes.values())

    def _map_zarr(self, shard: Shard, stream: str) -> None:
        form, name = self._form, self._form.data_name(shard.key, stream)
        file, number = self._folder / name, self._places[name]
        require_regular(file, kind=CacheError, what="file of a shard")
        if form.compression is None and is_linear(
            file, num_frames=shard.num_frames, frame_bytes=self._channels * form.dtype.itemsize
        ):
            if not self._copied:
                folder, shape = self._folder / group_name(shard.key), (shard.num_frames, self._channels)
                require_own_format(folder, stream, shape=shape, dtype=form.dtype)
            self._range.map_file(number, file)
        else:  # compressed, or in another order: Zarr promises none. In order, frames need not be copied into memory
            frames = self._read(shard, stream)
            if form.compression is not None:  # damage may decode to something else without an error
                self._require_sound(shard, stream, frames)
            self._range.fill(number, frames)
        for track in shard.tracks:
            address = self._range.starts[number] + track.first_frame * self._channels
            self._addresses[shard.key, track.id, stream] = address

    def _map_tar(self, shard: Shard) -> None:
        name = self._form.place(shard.key)
        file, number = self._folder / name, self._places[name]
        members = read_members(file, members_of(shard, self._form))
        self._range.map_file(number, file)
        for stream in self._form.names:
            parts = [
                members[f"{sample_key(position, track.id)}.{stream}.npy"] for position, track in enumerate(shard.tracks)
            ]
            if is_scale(stream):
                rows = [np.fromfile(file, part.dtype, self._channels, offset=part.offset) for part in parts]
                self._keep_scales(shard, stream, np.stack(rows))
                continue
            for track, part in zip(shard.tracks, parts, strict=True):
                address = self._range.starts[number] + part.offset // self._form.dtype.itemsize
                self._addresses[shard.key, track.id, stream] = address

    def _read(self, shard: Shard, name: str) -> NDArray[Any]:
        """(rows, channels) of an array of a Zarr shard, copied."""
        return np.concatenate(arrays_on_disk(self._folder, shard, self._form, [name], described=not self._copied)[name])

    def _keep_scales(self, shard: Shard, name: str, scales: NDArray[np.float32]) -> None:
        """(tracks, channels). They are few, and so always compared with their checksum."""
        self._require_sound(shard, name, scales)
        self._scales[shard.key, name] = {track.id: scale for track, scale in zip(shard.tracks, scales, strict=True)}

    def _require_sound(self, shard: Shard, name: str, array: NDArray[Any]) -> None:
        if block_checksums(array) != shard.blocks.get(name):
            raise CacheError(
                f"the {'scales' if is_scale(name) else 'frames'} of a shard are not what the index says",
                where=self._folder / self._form.data_name(shard.key, name), value=name, remedy=REBUILD,
            )  # fmt: skip


def _faults() -> int:
    """Page faults of this process that waited for a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
