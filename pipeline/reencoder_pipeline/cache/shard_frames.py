"""Reads whole shards of a cache into memory, from a folder or a URL; what arrives is checked against the index."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.int8 import is_scale, stored_names
from reencoder_pipeline.cache.formats.tar_shards import Member, Promised, members_in, promised_members, sample_key
from reencoder_pipeline.cache.formats.zarr_description import require_own_format
from reencoder_pipeline.cache.formats.zarr_shards import array_in, read_file
from reencoder_pipeline.cache.index import Shard
from reencoder_pipeline.cache.layout import ShardFormat, group_name
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.checked_reader import DamagedContentError, ObjectReader

Frames = NDArray[Any]


def read_shard(
    reader: ObjectReader, shard: Shard, form: ShardFormat, streams: Sequence[str]
) -> dict[str, list[Frames]]:
    """Stream -> the frames of every track of a shard, (frames, channels) and read-only, in the order of `shard.tracks`.

    For int8, also the scales of every track by the `scale_name` of a stream, (1, channels). A Zarr shard's files of
    these streams are read and no others; a tar is read whole. Files are compared with their sha256. CacheError if they
    cannot be read or are not what the index says.

    Example::

        read_shard(ObjectReader(cache.origin), cache.shards[0], cache.format, ["mono"])["mono"][0]  # of the first track
    """
    arrays: dict[str, list[Frames]] = {}
    for file, names in data_files(shard, form, stored_names(streams, form.precision)).items():
        size, sha256 = shard.files[file]
        take = partial(arrays_in, shard=shard, form=form, names=names)
        arrays |= reader.read_checked(file, size=size, sha256=sha256, take=take)
    return arrays


def data_files(shard: Shard, form: ShardFormat, names: Iterable[str]) -> dict[str, list[str]]:
    """File below the cache -> those of these arrays that it holds."""
    files: dict[str, list[str]] = {}
    for name in names:
        files.setdefault(form.data_name(shard.key, name), []).append(name)
    return files


def arrays_in(
    pieces: Iterator[bytes], *, shard: Shard, form: ShardFormat, names: Sequence[str]
) -> dict[str, list[Frames]]:
    """These arrays of one data file, whose bytes come in pieces, as `read_shard` gives them.

    DamagedContentError where the bytes are no such file.
    """
    content = b"".join(pieces)
    if form.storage != "webdataset":
        (name,) = names
        rows, dtype = num_rows(shard, name), form.dtype_of(name)
        joined = array_in(content, name, rows=rows, channels=form.channels, dtype=dtype, compression=form.compression)
        return {name: split_tracks(joined, name, shard)}
    members = members_in(io.BytesIO(content), members_of(shard, form))

    def array(member: Member) -> Frames:  # of a copy: an array does not keep the whole tar in memory
        size = math.prod(member.shape) * member.dtype.itemsize
        return np.frombuffer(content[member.offset : member.offset + size], member.dtype).reshape(member.shape)

    keys = [sample_key(position, track.id) for position, track in enumerate(shard.tracks)]
    return {name: [array(members[f"{key}.{name}.npy"]) for key in keys] for name in names}


def arrays_on_disk(
    folder: Path, shard: Shard, form: ShardFormat, names: Sequence[str], *, described: bool = True
) -> dict[str, list[Frames]]:
    """These arrays of a shard below `folder`, as `read_shard` gives them, whatever the digests of their files.

    CacheError unless the files and, where `described`, their descriptions are as our own writer makes them.
    """
    arrays: dict[str, list[Frames]] = {}
    for file, inside in data_files(shard, form, names).items():
        sizes = (0, 2**62)
        if form.storage != "webdataset":
            (name,) = inside
            rows, dtype = num_rows(shard, name), form.dtype_of(name)
            sizes = form.sizes(name, rows=rows)
            if described:
                group, shape = folder / group_name(shard.key), (rows, form.channels)
                require_own_format(group, name, shape=shape, dtype=dtype, compression=form.compression)
        content = read_file(folder / file, sizes=sizes)
        try:
            arrays |= arrays_in(iter([content]), shard=shard, form=form, names=inside)
        except DamagedContentError as error:
            raise CacheError(
                "a shard's file is not what the index says", where=folder / file, value=str(error)[:200],
                remedy="`reencoder-cache verify --discard` forgets damaged shards; then build again",
            ) from None  # fmt: skip
    return arrays


def num_rows(shard: Shard, name: str) -> int:
    """Frames of a stream, or tracks, which have one row of scales each."""
    return len(shard.tracks) if is_scale(name) else shard.num_frames


def split_tracks(joined: Frames, name: str, shard: Shard) -> list[Frames]:
    """(rows, channels) of a whole shard -> views of the rows of each track."""
    if is_scale(name):
        return np.split(joined, len(shard.tracks))
    return [joined[track.first_frame :][: track.num_frames] for track in shard.tracks]


def members_of(shard: Shard, form: ShardFormat) -> Promised:
    """The members that the tar of a shard must have."""
    tracks = [(track.id, track.num_frames) for track in shard.tracks]
    return promised_members(tracks, form.names, channels=form.channels, dtype=form.dtype)
