"""One shard as a Zarr v3 group: an uncompressed array a stream, whose one file is its chunks of frames and an index.

It is written by Zarr and read without it: what describes an array in a foreign file could ask for any codec and any
size, so the description is compared with the one that is written here, and the frames are found by the index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.int8 import is_scale
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import read_json, require_regular

CHUNK_FRAMES = 1024
FOOTER_CRC_BYTES = 4
DESCRIPTION = "zarr.json"
OLDER = (".zarray", ".zgroup", ".zattrs", ".zmetadata")  # of Zarr's second format, which a reader may prefer
_OWN_FILE = re.compile(r"(?:[a-z_]+/)?zarr\.json|[a-z_]+/c/0/0")
_LARGEST_DESCRIPTION = 2**16


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


def is_own_file(inside: str) -> bool:
    """Whether a file of this name, relative to the shard's folder, is one that `write_zarr_shard` writes."""
    return _OWN_FILE.fullmatch(inside) is not None


def foreign_files(folder: Path) -> list[str]:
    """What lies in the folder of a shard and is none of `write_zarr_shard`'s; nothing where there is no folder."""
    names = [
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    ]
    return sorted(name for name in names if not is_own_file(name))


def require_own_format(folder: Path, stream: str, *, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """CacheError unless the shard and this stream of it are described as `write_zarr_shard` does. No frame is read."""
    for inside, expected in (("", _group()), (stream, _array(stream, shape, dtype))):
        place = folder / inside
        older = [name for name in OLDER if (place / name).exists()]
        found = read_json(
            place / DESCRIPTION, kind=CacheError, what="description of a shard", limit=_LARGEST_DESCRIPTION
        )
        wrong = older or _differing(found, expected)
        if wrong:
            raise CacheError(
                "this is not a shard of this format", where=place / DESCRIPTION, value=", ".join(wrong[:3])[:200],
                remedy="build the cache again; shards that another program wrote are not read",
            )  # fmt: skip


def _differing(found: Any, expected: Mapping[str, Any]) -> list[str]:
    """The keys in which a description is not the expected one; what means nothing where it is empty may be left out."""
    if not isinstance(found, dict):
        return ["no JSON object"]
    empty = {"attributes": {}, "storage_transformers": [], "dimension_names": None, "consolidated_metadata": None}
    mine, theirs = {**empty, **expected}, {**empty, **found}
    return sorted(
        str(key) for key in mine.keys() | theirs.keys() if not _is_same(mine.get(key, ...), theirs.get(key, ...))
    )


def _is_same(a: Any, b: Any) -> bool:
    """Equal, and of equal types: true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_is_same, a, b))
    return type(a) is type(b) and a == b


def _group() -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group"}


def _array(stream: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> dict[str, Any]:
    """What `write_zarr_shard` makes Zarr write of an array."""
    rows, channels = shape
    chunk = rows if is_scale(stream) else CHUNK_FRAMES
    plain = {"name": "bytes", **({"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {})}
    sharding = {
        "chunk_shape": [chunk, channels],
        "codecs": [plain],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, channels],
        "data_type": str(dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [-(-rows // chunk) * chunk, channels]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if dtype == np.int8 else "NaN",
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def file_bytes(stream: str, *, rows: int, channels: int, dtype: np.dtype[Any]) -> int:
    """The size of the file that holds an array of `rows` frames, or of scales of `rows` tracks."""
    chunk = rows if is_scale(stream) else CHUNK_FRAMES
    chunks = -(-rows // chunk) if rows else 0
    return chunks * (chunk * channels * dtype.itemsize + 16) + FOOTER_CRC_BYTES


def is_linear(path: Path, *, num_frames: int, frame_bytes: int) -> bool:
    """Whether the file really is the frames in order. Zarr does not promise it, so the chunk index at its end is read:
    offset and length (uint64) of every inner chunk, then a crc32c."""
    footer_bytes = _footer_bytes(num_frames)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(-min(size, footer_bytes), 2)
        return _tells_linear(file.read(), size=size, num_frames=num_frames, frame_bytes=frame_bytes)


def frames_in(content: bytes, *, num_frames: int, dtype: np.dtype[Any], channels: int, where: object) -> NDArray[Any]:
    """The frames, (num_frames, channels) and read-only, of a file that is in memory, whatever the order of its chunks.

    CacheError where its chunk index does not say where in the file each chunk lies.
    """
    frame_bytes, footer = channels * dtype.itemsize, content[-_footer_bytes(num_frames) :]
    shape = (num_frames, channels)
    if _tells_linear(footer, size=len(content), num_frames=num_frames, frame_bytes=frame_bytes):
        return np.frombuffer(content, dtype, count=num_frames * channels).reshape(shape)
    chunks, chunk_bytes = -(-num_frames // CHUNK_FRAMES), CHUNK_FRAMES * frame_bytes
    end = chunks * chunk_bytes
    index = _chunk_index(footer) if len(content) == end + _footer_bytes(num_frames) else None
    if index is None or (index[:, 1] != chunk_bytes).any() or (index[:, 0] > end - chunk_bytes).any():
        raise CacheError(
            "this is not a shard of this format: its index does not say where its chunks are", where=where,
            value=f"{len(content)} bytes", remedy="build the cache again, or copy it again",
        )  # fmt: skip
    pieces = [content[start : start + chunk_bytes] for start in index[:, 0].tolist()]
    return np.frombuffer(b"".join(pieces), dtype, count=num_frames * channels).reshape(shape)


def scales_in(content: bytes, *, num_tracks: int, channels: int) -> NDArray[np.float32]:
    """(num_tracks, channels) of a file that `write_zarr_shard` made of scales: they stand before its chunk index."""
    if len(content) != 4 * num_tracks * channels + 16 + FOOTER_CRC_BYTES:
        raise CacheError(
            "scales have another size than the index promises", value=f"{len(content)} bytes",
            remedy="build the cache again, or copy it again",
        )  # fmt: skip
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


def _chunk_index(footer: bytes) -> NDArray[np.uint64] | None:
    """Offset and length of every chunk; None where it is not as its own checksum says."""
    import google_crc32c

    index, checksum = footer[:-FOOTER_CRC_BYTES], footer[-FOOTER_CRC_BYTES:]
    if google_crc32c.value(index).to_bytes(FOOTER_CRC_BYTES, "little") != checksum:
        return None
    return np.frombuffer(index, dtype="<u8").reshape(-1, 2)


def read_zarr_stream(
    folder: Path, stream: str, *, rows: int, channels: int, dtype: np.dtype[Any], described: bool = True
) -> NDArray[Any]:
    """A whole stream of a shard, (rows, channels) and read-only: frames, or the scales of `rows` tracks.

    CacheError unless it is described (where `described`), and has the size, as `write_zarr_shard` does and makes it.
    """
    if described:
        require_own_format(folder, stream, shape=(rows, channels), dtype=dtype)
    file = data_file(folder, stream)
    expected = file_bytes(stream, rows=rows, channels=channels, dtype=dtype)
    require_regular(file, kind=CacheError, what="file of a shard")
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size == expected else b""
    except OSError as error:
        raise CacheError(
            "a shard cannot be read", where=file, value=error.strerror, remedy="check its permissions and its disk"
        ) from None
    if len(content) != expected:
        raise CacheError(
            "a shard is damaged", where=file, value=f"{size} bytes instead of {expected}",
            remedy="`reencoder-cache verify --discard` forgets damaged shards; then build again",
        )  # fmt: skip
    if is_scale(stream):
        return scales_in(content, num_tracks=rows, channels=channels)
    return frames_in(content, num_frames=rows, dtype=dtype, channels=channels, where=file)
