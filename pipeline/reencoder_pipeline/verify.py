"""Check every byte of a cache against its index, and say exactly which frames of which shard are damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from reencoder_pipeline.cache import LatentCache, Shard
from reencoder_pipeline.commit import SHARDS, parse_record, record_file
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shard import block_checksums
from reencoder_pipeline.tar_shards import read_tar_stream, sample_key
from reencoder_pipeline.zarr_shards import CHUNK_FRAMES, data_file, read_zarr_stream


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with one shard."""

    shard: str
    file: str
    problem: str


def verify_cache(cache: LatentCache) -> list[Damage]:
    """Digest every file (sha256); where one differs, find the blocks of frames that changed (crc32c). [] when sound.

    The index itself was checked when it was opened; commit records hold their own digest.
    """
    return [damage for shard in cache.shards for damage in verify_shard(cache, shard)]


def verify_shard(cache: LatentCache, shard: Shard) -> list[Damage]:
    damages = []
    for name, (size, digest) in shard.files.items():
        path = cache.path / name
        if not path.is_file():
            damages.append(Damage(shard.key, name, "missing"))
        elif path.stat().st_size != size:
            damages.append(Damage(shard.key, name, f"{path.stat().st_size} bytes instead of {size}"))
        else:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    damages.append(Damage(shard.key, name, f"content changed: {_changed_blocks(cache, shard, path)}"))
    record = record_file(cache.path, shard.key)
    if record.exists() and parse_record(record) is None:
        damages.append(Damage(shard.key, record.relative_to(cache.path).as_posix(), "commit record damaged"))
    return damages


def _changed_blocks(cache: LatentCache, shard: Shard, path: Path) -> str:
    try:
        spans = [
            f"{stream}, frames {block * CHUNK_FRAMES} to {min((block + 1) * CHUNK_FRAMES, shard.num_frames)}"
            for stream, frames in _streams_in(cache, shard, path)
            for block, (found, promised) in enumerate(
                zip_longest(block_checksums(frames), shard.blocks[stream])  # a damaged header may tell another length
            )
            if found != promised
        ]
    except CacheError as error:
        return error.what
    return "; ".join(spans[:5]) or "outside the frames"


def _streams_in(cache: LatentCache, shard: Shard, path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """The streams whose frames lie in this file of a shard."""
    folder = cache.path / SHARDS / shard.key
    for stream in cache.streams:
        if cache.storage == "webdataset":
            keys = [sample_key(position, track.id) for position, track in enumerate(shard.tracks)]
            yield stream, read_tar_stream(path, keys, stream)
        elif path == data_file(folder, stream):
            yield stream, read_zarr_stream(folder, stream)


def discard(cache: LatentCache, damages: list[Damage]) -> int:
    """Forget the commit records of damaged shards and the index, so that the next build makes them again."""
    keys = {damage.shard for damage in damages}
    for key in keys:
        (cache.path / SHARDS / f"{key}.json").unlink(missing_ok=True)
    if keys:
        (cache.path / "index.json").unlink(missing_ok=True)
    return len(keys)
