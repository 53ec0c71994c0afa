"""A cache in the other storage format: Zarr to WebDataset or back, with the same values, tracks and statistics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reencoder_pipeline.cache.index import INDEX, Shard, shard_to_dict
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.exchange.output_folder import begin, read_shard, require_known_streams, require_same
from reencoder_pipeline.shards.commit_frames import commit_frames
from reencoder_pipeline.shards.record import Record, is_whole, read_record
from reencoder_pipeline.shards.sweep import naming_a_full_disk, sweep
from reencoder_pipeline.stores.atomic import write_text
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.own_folder import folder_lock
from reencoder_pipeline.stores.store import open_store


@dataclass(frozen=True)
class Converted:
    """What was done: shards written now, and shards that an earlier run had finished."""

    tracks: int
    frames: int
    shards_written: int
    shards_kept: int
    digest: str


def convert_cache(source: Path | str, out: Path, *, storage: str, progress: Callable[[int, int], None]) -> Converted:
    """Write the cache `source` into `out` in `storage`. Running the same command again goes on where it stopped.

    Keys of shards stay: a key says what a shard is made of, and its files say how that is stored. So a cache that goes
    there and back is the same cache, file for file. Every frame is checked against the index on its way. Nothing is
    written into `source`. CacheError: `source` is damaged, or `out` holds something else.
    """
    cache = open_cache(source, checked=True)
    require_known_streams(cache)
    config = CacheConfig.model_validate(
        {"format": storage, "streams": list(cache.streams), "precision": cache.precision}
    )
    settings = {"made_by": "convert", "cache": cache.digest, "format": storage}
    require_same(out / "settings.json", settings)
    with naming_a_full_disk(out), folder_lock(out, what="a conversion"):
        begin(out / "settings.json", settings)
        keys = {shard.key for shard in cache.shards}
        sweep(out, known=keys)
        total = sum(shard.num_frames for shard in cache.shards)
        shards, kept, done = [], 0, 0
        for shard in cache.shards:
            record = read_record(out, shard.key)
            record = record if record is not None and _is_copy(record, shard, config, cache) else None
            kept += record is not None
            shards.append((record or _rewrite(cache, shard, out, config)).shard)
            done += shard.num_frames
            progress(done, total)
        there = open_store(source)
        write_text(out / "failures.jsonl", (there.read("failures.jsonl") or b"").decode("utf-8"))
        index = json.loads(there.read(INDEX) or b"{}")
        index.pop("digest", None)
        index |= {"storage": storage, "shards": [shard_to_dict(shard) for shard in shards]}
        digest = canonical_digest(index)
        write_text(out / INDEX, json.dumps({**index, "digest": digest}, indent=1))
        sweep(out, keep=keys, known=keys)
    return Converted(len(cache.tracks), total, len(shards) - kept, kept, digest)


def _is_copy(record: Record, shard: Shard, config: CacheConfig, cache: LatentCache) -> bool:
    """Whether a record is of these tracks and frames: keys are the same in all formats."""
    mine, theirs = record.shard, shard
    same = (mine.tracks, mine.blocks) == (theirs.tracks, theirs.blocks)
    return same and is_whole(record, config, channels=cache.spec.channels)


def _rewrite(cache: LatentCache, shard: Shard, out: Path, config: CacheConfig) -> Record:
    tracks = [
        EncodedTrack(
            track=Track(track.id, Path(), split=track.split, sha256=track.sha256),
            num_samples=track.num_samples,
            num_frames=track.num_frames,
            tasks=track.tasks,
            bandwidth_hz=track.bandwidth_hz,
            side_mid_db=track.side_mid_db,
            level_db=track.level_db,
            peak_db=track.peak_db,
            streams=streams,
        )
        for track, streams in zip(shard.tracks, read_shard(cache, shard, cache.streams, as_stored=True), strict=True)
    ]
    return commit_frames(shard.key, tracks, out, config, channels=cache.spec.channels)
