"""Writes and reads a shard as a WebDataset tar: an uncompressed `.npy` for each track and stream."""

from __future__ import annotations

import io
import math
import re
import tarfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.int8 import is_scale
from reencoder_pipeline.cache.formats.npy import read_npy_header
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import require_regular
from reencoder_pipeline.stores.checked_reader import DamagedContentError

_UNREADABLE = (tarfile.TarError, ValueError, RecursionError, MemoryError, TypeError)
LONGEST_HEADER = 512  # bytes of a .npy; ours have 128
Promised = Mapping[str, tuple[tuple[int, int], np.dtype[Any]]]
"""Member name -> shape and type of its array."""


def write_tar_shard(path: Path, keys: Sequence[str], tracks: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Write track i as members <key>.<stream>.npy, (frames, channels) each. Times and owners are fixed, so that the
    same latents make the same bytes."""
    import webdataset

    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0, user="", group="") as writer:  # type: ignore[arg-type]
        for key, streams in zip(keys, tracks, strict=True):
            writer.write({"__key__": key, **{f"{name}.npy": frames for name, frames in streams.items()}})


def sample_key(position: int, track_id: str) -> str:
    """A WebDataset key: no dots (they would start the extension), no folders, unique by its number."""
    return f"{position:05d}_" + re.sub(r"[^A-Za-z0-9_-]+", "_", track_id)[-80:]


@dataclass(frozen=True)
class Member:
    """Where the values of one `.npy` in a tar begin (bytes), and what they are."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def promised_members(
    tracks: Iterable[tuple[str, int]], names: Sequence[str], *, channels: int, dtype: np.dtype[Any]
) -> Promised:
    """The members of a shard of these tracks (id, frames), for the arrays `names` (`stored_names`)."""
    return {
        f"{sample_key(position, track_id)}.{name}.npy": ((1, channels), np.dtype(np.float32))
        if is_scale(name)
        else ((num_frames, channels), dtype)
        for position, (track_id, num_frames) in enumerate(tracks)
        for name in names
    }


def read_members(path: Path, promised: Promised) -> dict[str, Member]:
    """Where the arrays of a shard lie, by member name. CacheError if the tar holds anything but those promised."""
    require_regular(path, kind=CacheError, what="file of a shard")
    try:
        with path.open("rb") as file:
            return members_in(file, promised)
    except DamagedContentError as error:
        raise CacheError(
            "a shard's tar is not what the index says", where=path, value=str(error)[:200], remedy=_AGAIN
        ) from None
    except OSError as error:
        raise CacheError("a shard cannot be read", where=path, value=error.strerror, remedy=_AGAIN) from None


def members_in(file: BinaryIO, promised: Promised) -> dict[str, Member]:
    """Where the arrays lie in an open tar. DamagedContentError if it is no uncompressed tar of those promised."""
    members: dict[str, Member] = {}
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                _require_plain(entry, promised, members)
                file.seek(entry.offset_data)
                header = file.read(min(entry.size, LONGEST_HEADER))
                length = _require_header(header, entry, *promised[entry.name])
                if entry.offset_data + entry.size > size:
                    raise DamagedContentError(f"{entry.name} is cut")
                members[entry.name] = Member(entry.offset_data + length, *promised[entry.name])
    except _UNREADABLE as error:
        raise DamagedContentError(str(error.args[0])[:200] if error.args else repr(error)) from None
    if missing := [name for name in promised if name not in members]:
        raise DamagedContentError(f"a member is missing: {missing[0]}")
    return members


_AGAIN = "`reencoder-cache verify --discard` forgets damaged shards; then build again"


def _require_plain(entry: tarfile.TarInfo, promised: Promised, before: Collection[str]) -> None:
    """DamagedContentError unless a member is a plain file that is promised and did not come before. A sparse file is
    refused before its content is read: it is small in a tar, and may claim any size."""
    sparse = entry.sparse is not None or any(key.startswith("GNU.sparse") for key in entry.pax_headers)
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or sparse:
        raise DamagedContentError(f"{entry.name[:100]} is not a plain file")
    if entry.name not in promised:
        raise DamagedContentError(f"{entry.name[:100]} does not belong to the shard")
    if entry.name in before:
        raise DamagedContentError(f"{entry.name} is there twice")
    shape, dtype = promised[entry.name]
    values = math.prod(shape) * dtype.itemsize
    if not values < entry.size <= values + LONGEST_HEADER:
        raise DamagedContentError(f"{entry.name} has {entry.size} bytes, and its frames {values}")


def _require_header(header: bytes, entry: tarfile.TarInfo, shape: tuple[int, int], dtype: np.dtype[Any]) -> int:
    """The length of a `.npy`'s header, once it says what is promised and the values fill the rest of the member."""
    its = read_npy_header(header)
    if its.version != (1, 0):
        raise DamagedContentError(f"{entry.name} is of another version of the .npy format")
    if (its.shape, its.fortran, its.dtype) != (shape, False, dtype):
        raise DamagedContentError(
            f"{entry.name} is {its.dtype} of shape {its.shape}, not {dtype} of {shape} in C order"
        )
    if its.length + math.prod(shape) * dtype.itemsize != entry.size:
        raise DamagedContentError(f"{entry.name} is not filled by its frames")
    return its.length
