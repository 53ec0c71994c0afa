"""One shard as a Zarr v3 group: an uncompressed array a stream, whose one file is its frames in order and an index."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import CacheError

CHUNK_FRAMES = 1024
FOOTER_CRC_BYTES = 4


def write_zarr_shard(folder: Path, streams: Mapping[str, NDArray[Any]]) -> None:
    """Write each stream (frames, channels) as one array with all channels in one inner chunk and no compression.

    fill_value is NaN: with 0, an all-zero chunk would be dropped and everything after it would move.
    """
    import zarr

    group = zarr.create_group(folder, zarr_format=3)
    for name, frames in streams.items():
        padded = -(-len(frames) // CHUNK_FRAMES) * CHUNK_FRAMES
        array = group.create_array(
            name,
            shape=frames.shape,
            chunks=(CHUNK_FRAMES, frames.shape[1]),
            shards=(padded, frames.shape[1]),
            dtype=frames.dtype,
            compressors=None,
            filters=None,
            fill_value=float("nan"),
            config={"write_empty_chunks": True},
        )
        array[:] = frames


def data_file(folder: Path, stream: str) -> Path:
    return folder / stream / "c" / "0" / "0"


def is_linear(path: Path, *, num_frames: int, frame_bytes: int) -> bool:
    """Whether the file really is the frames in order. Zarr does not promise it, so the chunk index at its end is read:
    offset and length (uint64) of every inner chunk, then a crc32c."""
    chunks = -(-num_frames // CHUNK_FRAMES)
    footer_bytes = 16 * chunks + FOOTER_CRC_BYTES
    chunk_bytes = CHUNK_FRAMES * frame_bytes
    if path.stat().st_size != chunks * chunk_bytes + footer_bytes:
        return False
    with path.open("rb") as file:
        file.seek(-footer_bytes, 2)
        index = np.frombuffer(file.read(footer_bytes - FOOTER_CRC_BYTES), dtype="<u8").reshape(-1, 2)
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
