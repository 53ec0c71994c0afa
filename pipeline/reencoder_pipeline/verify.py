"""Check every byte of a cache against its index, and say exactly which frames of which shard are damaged."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from reencoder_pipeline.cache import LatentCache, Shard
from reencoder_pipeline.commit import SHARDS
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shard import block_checksums
from reencoder_pipeline.zarr_shards import CHUNK_FRAMES, data_file, read_zarr_stream


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with one shard."""

    shard: str
    file: str
    problem: str


def verify_cache(cache: LatentCache) -> list[Damage]:
    """Digest every file (sha256); where one differs, find the blocks of frames that changed (crc32c). [] when sound."""
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
                    damages.append(Damage(shard.key, name, f"content changed{_changed_blocks(cache, shard, path)}"))
    return damages


def _changed_blocks(cache: LatentCache, shard: Shard, path: Path) -> str:
    for stream in cache.streams:
        folder = cache.path / SHARDS / shard.key
        if cache.storage == "zarr" and path == data_file(folder, stream):
            try:
                found = block_checksums(read_zarr_stream(folder, stream))
            except CacheError as error:
                return f": {error.what}"
            bad = [block for block, crc in enumerate(found) if crc != shard.blocks[stream][block]]
            spans = ", ".join(f"{b * CHUNK_FRAMES} to {(b + 1) * CHUNK_FRAMES}" for b in bad[:5])
            return f": {stream}, frames {spans}" if bad else ": outside the frames (chunk index or padding)"
    return ""


def discard(cache: LatentCache, damages: list[Damage]) -> int:
    """Forget the commit records of damaged shards and the index, so that the next build makes them again."""
    keys = {damage.shard for damage in damages}
    for key in keys:
        (cache.path / SHARDS / f"{key}.json").unlink(missing_ok=True)
    if keys:
        (cache.path / "index.json").unlink(missing_ok=True)
    return len(keys)
