"""One shard as a Zarr v3 group: an uncompressed array a stream, whose one file is its frames in order and an index."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.int8_frames import is_scale

CHUNK_FRAMES = 1024
FOOTER_CRC_BYTES = 4


def write_zarr_shard(folder: Path, streams: Mapping[str, NDArray[Any]]) -> None:
    """Write each stream (frames, channels) as one array with all channels in one inner chunk and no compression.

    fill_value is NaN: with 0, an all-zero chunk would be dropped and everything after it would move.
    """
    import zarr

    group = zarr.create_group(folder, zarr_format=3)
    for name, frames in streams.items():
        chunk = len(frames) if is_scale(name) else CHUNK_FRAMES
        padded = -(-len(frames) // chunk) * chunk
        array = group.create_array(
            name,
            shape=frames.shape,
            chunks=(chunk, frames.shape[1]),
            shards=(padded, frames.shape[1]),
            dtype=frames.dtype,
            compressors=None,
            filters=None,
            fill_value=0 if frames.dtype == np.int8 else float("nan"),
            config={"write_empty_chunks": True},
        )
        array[:] = frames


def data_file(folder: Path, stream: str) -> Path:
    return folder / stream / "c" / "0" / "0"


def is_linear(path: Path, *, num_frames: int, frame_bytes: int) -> bool:
    """Whether the file really is the frames in order. Zarr does not promise it, so the chunk index at its end is read:
    offset and length (uint64) of every inner chunk, then a crc32c."""
    footer_bytes = _footer_bytes(num_frames)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(-min(size, footer_bytes), 2)
        return _tells_linear(file.read(), size=size, num_frames=num_frames, frame_bytes=frame_bytes)


def linear_frames(content: bytes, *, num_frames: int, dtype: np.dtype[Any], channels: int) -> NDArray[Any] | None:
    """The frames, (num_frames, channels) and read-only, in a file that is in memory; None if it is not linear."""
    frame_bytes, footer = channels * dtype.itemsize, content[-_footer_bytes(num_frames) :]
    if not _tells_linear(footer, size=len(content), num_frames=num_frames, frame_bytes=frame_bytes):
        return None
    return np.frombuffer(content, dtype, count=num_frames * channels).reshape(num_frames, channels)


def scales_in(content: bytes, *, num_tracks: int, channels: int) -> NDArray[np.float32]:
    """(num_tracks, channels) of a file that `write_zarr_shard` made of scales: they stand before its chunk index."""
    if len(content) < 4 * num_tracks * channels:
        raise CacheError("scales are cut", value=f"{len(content)} bytes")
    return np.frombuffer(content, np.float32, count=num_tracks * channels).reshape(num_tracks, channels)


def _footer_bytes(num_frames: int) -> int:
    return 16 * -(-num_frames // CHUNK_FRAMES) + FOOTER_CRC_BYTES


def _tells_linear(footer: bytes, *, size: int, num_frames: int, frame_bytes: int) -> bool:
    chunks, chunk_bytes = -(-num_frames // CHUNK_FRAMES), CHUNK_FRAMES * frame_bytes
    if size != chunks * chunk_bytes + _footer_bytes(num_frames):
        return False
    index = np.frombuffer(footer[:-FOOTER_CRC_BYTES], dtype="<u8").reshape(-1, 2)
    expected = np.arange(chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
    return bool((index[:, 0] == expected).all() and (index[:, 1] == chunk_bytes).all())


def read_zarr_stream(folder: Path, stream: str) -> NDArray[Any]:
    """The whole stream of a shard through the Zarr reader: the slow way in, when the file is not linear."""
    import zarr

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(zarr.open_group(folder, mode="r")[stream][:])  # type: ignore[index]
    except Exception as error:
        raise CacheError("shard cannot be read", where=folder, value=str(error)[:200]) from error
