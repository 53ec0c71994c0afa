"""One shard as a Zarr v3 group: an array for each stream, whose one file is its chunks of frames and then an index.

Zarr writes it, and the frames are read without Zarr: a foreign file could describe any codec and any size. So the
description must be the one that is written here, and the frames are found by the index of chunks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.compression import Compression
from reencoder_pipeline.cache.formats.int8 import is_scale
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import require_regular
from reencoder_pipeline.stores.checked_reader import DamagedContentError

CHUNK_FRAMES = 1024
FOOTER_CRC_BYTES, ENTRY_BYTES = 4, 16  # of a chunk index: its checksum, and a chunk's offset and length
DESCRIPTION = "zarr.json"
_OWN_FILE = re.compile(r"(?:[a-z_]+/)?zarr\.json|[a-z_]+/c/0/0")


def write_zarr_shard(
    folder: Path, streams: Mapping[str, NDArray[Any]], *, compression: Compression | None = None
) -> None:
    """Write each stream (frames, channels) as one array with all channels in one inner chunk.

    fill_value is NaN: with 0, an all-zero chunk would be dropped and everything after it would move.
    """
    import zarr

    group = zarr.create_group(folder, zarr_format=3)
    for name, frames in streams.items():
        chunk = chunk_rows(name, len(frames))
        padded = -(-len(frames) // chunk) * chunk
        array = group.create_array(
            name,
            shape=frames.shape,
            chunks=(chunk, frames.shape[1]),
            shards=(padded, frames.shape[1]),
            dtype=frames.dtype,
            compressors=None if compression is None else compression.described(frames.dtype.itemsize),
            filters=None,
            fill_value=0 if frames.dtype == np.int8 else float("nan"),
            config={"write_empty_chunks": True},
        )
        array[:] = frames


def data_inside(stream: str) -> str:
    """The file with an array's frames, relative to the shard's folder."""
    return f"{stream}/c/0/0"


def data_file(folder: Path, stream: str) -> Path:
    return folder / data_inside(stream)


def descriptions(names: Sequence[str]) -> list[str]:
    """The files that describe a shard of these arrays, relative to its folder."""
    return [DESCRIPTION, *(f"{name}/{DESCRIPTION}" for name in names)]


def is_own_file(inside: str) -> bool:
    """Whether a file of this name, relative to the shard's folder, is one that `write_zarr_shard` writes."""
    return _OWN_FILE.fullmatch(inside) is not None


def foreign_files(folder: Path) -> list[str]:
    """Files in the folder of a shard that `write_zarr_shard` did not make; none where there is no folder."""
    names = [
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    ]
    return sorted(name for name in names if not is_own_file(name))


def chunk_rows(name: str, rows: int) -> int:
    """Rows of an inner chunk: scales, one row a track, are one chunk."""
    return rows if is_scale(name) else CHUNK_FRAMES


def _num_chunks(name: str, rows: int) -> int:
    return -(-rows // chunk_rows(name, rows)) if rows else 0


def file_sizes(
    stream: str, *, rows: int, channels: int, dtype: np.dtype[Any], compression: Compression | None
) -> tuple[int, int]:
    """Smallest and largest size of the file with an array of `rows` frames, or of scales of `rows` tracks.

    Compression may make a chunk that is noise a little larger.
    """
    chunks, chunk = _num_chunks(stream, rows), chunk_rows(stream, rows) * channels * dtype.itemsize
    index = chunks * ENTRY_BYTES + FOOTER_CRC_BYTES
    if compression is None:
        return chunks * chunk + index, chunks * chunk + index
    return chunks + index, chunks * (chunk + chunk // 128 + 128) + index


def is_linear(path: Path, *, num_frames: int, frame_bytes: int) -> bool:
    """Whether the file of an uncompressed stream is its frames in order, by the chunk index at its end.

    Zarr does not promise the order of chunks in a file.
    """
    chunks, chunk_bytes = _num_chunks("", num_frames), CHUNK_FRAMES * frame_bytes
    index_bytes = chunks * ENTRY_BYTES + FOOTER_CRC_BYTES
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(-min(size, index_bytes), 2)
        return size == chunks * chunk_bytes + index_bytes and _in_order(file.read(), chunk_bytes)


def _in_order(footer: bytes, chunk_bytes: int) -> bool:
    index = np.frombuffer(footer[:-FOOTER_CRC_BYTES], dtype="<u8").reshape(-1, 2)
    starts = np.arange(len(index), dtype=np.uint64) * np.uint64(chunk_bytes)
    return bool((index[:, 0] == starts).all() and (index[:, 1] == chunk_bytes).all())


def array_in(
    content: bytes,
    name: str,
    *,
    rows: int,
    channels: int,
    dtype: np.dtype[Any],
    compression: Compression | None,
) -> NDArray[Any]:
    """The array, (rows, channels) and read-only, in the content of its file, whatever the order of its chunks.

    DamagedContentError where the chunk index does not say where each chunk lies, or a chunk does not decode to exactly
    its rows.
    """
    chunks, chunk_bytes = _num_chunks(name, rows), chunk_rows(name, rows) * channels * dtype.itemsize
    try:
        places = _chunk_places(content, chunks, None if compression else chunk_bytes)
        if places is None:
            return np.frombuffer(content, dtype, count=rows * channels).reshape(rows, channels)
        decoded = np.empty(chunks * chunk_bytes, dtype=np.uint8)
        for number, (start, length) in enumerate(places):
            chunk, out = content[start : start + length], decoded[number * chunk_bytes :][:chunk_bytes]
            if compression is None:
                out[:] = np.frombuffer(chunk, dtype=np.uint8)
            else:
                compression.decode_into(chunk, out)
    except ValueError as error:
        raise DamagedContentError(str(error)) from None
    decoded.flags.writeable = False
    return decoded.view(dtype)[: rows * channels].reshape(rows, channels)


def _chunk_places(content: bytes, chunks: int, chunk_bytes: int | None) -> list[tuple[int, int]] | None:
    """Offset and length of every chunk; None where the file is its chunks in order.

    ValueError where the index is damaged or a chunk lies outside the file's data. `chunk_bytes`: None if compressed.
    """
    import google_crc32c

    end = len(content) - chunks * ENTRY_BYTES - FOOTER_CRC_BYTES
    if end < chunks or (chunk_bytes is not None and end != chunks * chunk_bytes):
        raise ValueError(f"its {chunks} chunks cannot make {len(content)} bytes")
    if chunk_bytes is not None and _in_order(content[end:], chunk_bytes):
        return None
    index, checksum = content[end:-FOOTER_CRC_BYTES], content[-FOOTER_CRC_BYTES:]
    if google_crc32c.value(index).to_bytes(FOOTER_CRC_BYTES, "little") != checksum:
        raise ValueError("its index of chunks does not match its own checksum")
    places = [(start, length) for start, length in np.frombuffer(index, dtype="<u8").reshape(-1, 2).tolist()]
    for start, length in places:
        if start + length > end or chunk_bytes not in (None, length):
            raise ValueError(f"its index says that a chunk of {length} bytes begins at {start}")
    return places


def read_file(path: Path, *, sizes: tuple[int, int]) -> bytes:
    """The content of a shard's data file. CacheError unless it is a regular file within these sizes."""
    require_regular(path, kind=CacheError, what="file of a shard")
    smallest, largest = sizes
    try:
        size = path.stat().st_size
        content = path.read_bytes() if smallest <= size <= largest else b""
    except OSError as error:
        raise CacheError(
            "a shard cannot be read", where=path, value=error.strerror, remedy="check its permissions and its disk"
        ) from None
    if not smallest <= len(content) <= largest:
        raise CacheError(
            "a shard is damaged", where=path, value=f"{size} bytes instead of {smallest}",
            remedy="`reencoder-cache verify --discard` forgets damaged shards; then build again",
        )  # fmt: skip
    return content
