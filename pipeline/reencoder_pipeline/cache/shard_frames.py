"""One shard of a cache into memory, from wherever the cache lies; checked against the index on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.int8 import is_scale, stored_names
from reencoder_pipeline.cache.formats.tar_shards import promised_members, sample_key, stream_members
from reencoder_pipeline.cache.formats.zarr_shards import frames_in, scales_in
from reencoder_pipeline.cache.index import Shard
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.stores.checked_reader import ObjectReader

Frames = NDArray[Any]


def read_shard(
    reader: ObjectReader, cache: LatentCache, shard: Shard, streams: Sequence[str]
) -> dict[str, list[Frames]]:
    """Per stream the frames of every track of the shard, (frames, channels), in the order of `shard.tracks`; of int8,
    per `scale_name` of a stream its scales too, (1, channels).

    Of a Zarr shard the files of these streams travel and no others; a tar travels whole. CacheError if they cannot be
    read or are not what the index says.
    """
    streams = stored_names(streams, cache.precision)
    if cache.storage == "webdataset":
        return _from_tar(reader, cache, shard, streams)
    return {stream: _from_zarr(reader, cache, shard, stream) for stream in streams}


def _from_zarr(reader: ObjectReader, cache: LatentCache, shard: Shard, stream: str) -> list[Frames]:
    name = cache.data_name(shard, stream)
    size, sha256 = shard.files[name]
    content = reader.read_checked(name, size=size, sha256=sha256, take=b"".join)
    dtype, channels = np.dtype(cache.precision), cache.spec.channels
    if is_scale(stream):
        return np.split(scales_in(content, num_tracks=len(shard.tracks), channels=channels), len(shard.tracks))
    frames = frames_in(
        content, num_frames=shard.num_frames, dtype=dtype, channels=channels, where=f"{cache.origin}/{name}"
    )
    return [frames[track.first_frame :][: track.num_frames] for track in shard.tracks]


def _from_tar(
    reader: ObjectReader, cache: LatentCache, shard: Shard, streams: Sequence[str]
) -> dict[str, list[Frames]]:
    name = cache.data_name(shard, streams[0])
    size, sha256 = shard.files[name]
    promised = promised_members(
        [(track.id, track.num_frames) for track in shard.tracks], stored_names(cache.streams, cache.precision),
        channels=cache.spec.channels, dtype=np.dtype(cache.precision),
    )  # fmt: skip
    wanted = {
        f"{sample_key(position, track.id)}.{stream}.npy"
        for position, track in enumerate(shard.tracks)
        for stream in streams
    }

    def take(pieces: Iterator[bytes]) -> dict[str, Frames]:
        return dict(stream_members(pieces, promised, wanted))

    arrays = reader.read_checked(name, size=size, sha256=sha256, take=take)
    return {
        stream: [
            arrays[f"{sample_key(position, track.id)}.{stream}.npy"] for position, track in enumerate(shard.tracks)
        ]
        for stream in streams
    }
