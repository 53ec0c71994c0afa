"""One shard as a WebDataset tar: an uncompressed `.npy` per track and stream, found again by its offset."""

from __future__ import annotations

import io
import re
import tarfile
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import CacheError


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


def read_members(path: Path) -> dict[str, Member]:
    """The arrays of a shard by member name. CacheError if the tar is cut or holds something else."""
    members = {}
    try:
        with tarfile.open(path) as tar, path.open("rb") as file:
            for entry in tar:
                file.seek(entry.offset_data)
                header = io.BytesIO(file.read(min(entry.size, 4096)))
                version = np.lib.format.read_magic(header)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(header)
                offset = entry.offset_data + header.tell()
                if fortran or offset + int(np.prod(shape)) * dtype.itemsize > path.stat().st_size:
                    raise CacheError("a member is cut, or not in C order", where=path, value=entry.name)
                members[entry.name] = Member(offset, shape, dtype)
    # numpy parses a header as Python text, with Python's own errors for a damaged one.
    except (tarfile.TarError, ValueError, OSError, SyntaxError, tokenize.TokenError) as error:
        raise CacheError("shard cannot be read", where=path, value=str(error)[:200]) from error
    return members


def read_tar_stream(path: Path, keys: Sequence[str], stream: str) -> NDArray[Any]:
    """The tracks of one stream joined, (frames, channels), copied. CacheError if a member is missing."""
    members = read_members(path)
    names = [f"{key}.{stream}.npy" for key in keys]
    if missing := [name for name in names if name not in members]:
        raise CacheError("a member is missing", where=path, value=missing[0])
    chosen = [members[name] for name in names]
    try:
        return np.concatenate(
            [np.fromfile(path, m.dtype, count=int(np.prod(m.shape)), offset=m.offset).reshape(m.shape) for m in chosen]
        )
    except ValueError as error:  # shapes or types that cannot be true
        raise CacheError("shard cannot be read", where=path, value=str(error)[:200]) from error
