"""One shard as a WebDataset tar: an uncompressed `.npy` per track and stream, found again by its offset."""

from __future__ import annotations

import io
import re
import tarfile
import threading
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.object_reads import DamagedContentError

# numpy parses a header as Python text, with Python's own errors for a damaged one.
UNREADABLE = (tarfile.TarError, ValueError, OSError, SyntaxError, tokenize.TokenError)
_PARSING = (
    threading.Lock()
)  # by several threads at once Python 3.11 can fail: "AST constructor recursion depth mismatch"


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
                shape, fortran, dtype = _read_header(header)
                offset = entry.offset_data + header.tell()
                if fortran or offset + int(np.prod(shape)) * dtype.itemsize > path.stat().st_size:
                    raise CacheError("a member is cut, or not in C order", where=path, value=entry.name)
                members[entry.name] = Member(offset, shape, dtype)
    except UNREADABLE as error:
        raise CacheError("shard cannot be read", where=path, value=str(error)[:200]) from error
    return members


def stream_members(pieces: Iterator[bytes], names: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of these names, in the order of the tar, while its bytes come in; the others are read past.

    This is WebDataset's own way through a remote tar, but for its opener. DamagedContentError if it is no such tar.
    """
    from webdataset.pipeline import DataPipeline
    from webdataset.shardlists import SimpleShardList
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def opener(sources: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for source in sources:
            yield {**source, "stream": io.BufferedReader(_Incoming(pieces), 1 << 20)}

    def expander(sources: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return tar_file_expander(sources, select_files=names.__contains__)

    pipeline = DataPipeline(SimpleShardList(["shard"]), opener, expander, group_by_keys)
    try:
        for sample in pipeline:
            for suffix, content in sample.items():
                if not suffix.startswith("__"):
                    yield f"{sample['__key__']}.{suffix}", _read_array(content)
    except CacheError as error:  # of `pieces`; on the way here a line was added to its text
        raise CacheError(error.what, where=error.where, value=error.value, remedy=error.remedy) from None
    except (DamagedContentError, *UNREADABLE) as error:
        raise DamagedContentError(str(error.args[0])[:200] if error.args else repr(error)) from None


def _read_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type of a .npy; what follows in `file` are the values."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _PARSING:
        return read(file)


def _read_array(content: bytes) -> NDArray[Any]:
    """A .npy that is in memory, without a copy; ValueError where its header and its values do not go together."""
    file = io.BytesIO(content)
    shape, fortran, dtype = _read_header(file)
    if fortran:
        raise ValueError("an array that is not in C order")
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


class _Incoming(io.RawIOBase):
    """Bytes that arrive in pieces, as a file that can only be read on. Only an uncompressed tar is let through: what a
    compressed one unpacks to has no known size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest, self._begun = pieces, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
            if not self._begun and self._rest[257:262] != b"ustar":
                raise DamagedContentError("not an uncompressed tar")
            self._begun = True
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


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
