"""Converts a cache to another storage (Zarr, compressed or not, or WebDataset); values, tracks, statistics stay."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from reencoder_pipeline.cache.formats.compression import Compression
from reencoder_pipeline.cache.index import INDEX, Shard, shard_to_dict
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cache.shard_frames import read_shard
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.exchange.output_folder import begin, require_output_folder
from reencoder_pipeline.progress import Progress
from reencoder_pipeline.shards.record import Record, is_whole, read_record
from reencoder_pipeline.shards.reused_tracks import as_encoded
from reencoder_pipeline.shards.sweep import naming_a_full_disk, sweep
from reencoder_pipeline.shards.write_shard import commit_frames
from reencoder_pipeline.stores.atomic import write_text
from reencoder_pipeline.stores.checked_reader import ObjectReader
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.own_folder import folder_lock
from reencoder_pipeline.stores.store import open_store


@dataclass(frozen=True)
class Converted:
    """Counts of a conversion: shards written now, and shards kept from an earlier run."""

    tracks: int
    frames: int
    shards_written: int
    shards_kept: int
    digest: str


def convert_cache(
    source: Path | str,
    out: Path,
    *,
    storage: str,
    compression: Compression | None = None,
    progress: Progress,
) -> Converted:
    """Write the cache `source` into `out` as `storage` ("zarr" or "webdataset"). Repeat an interrupted call to resume.

    Shards keep their keys: a key identifies a shard's content, not its storage. A cache converted there and back has
    the same index and data files; its settings and commit records say that it was converted. Every frame is checked
    against the index. `progress(done, total)` counts frames. CacheError if `source` is damaged, or `out` holds
    something else.

    Example::

        convert_cache("cache", Path("tars"), storage="webdataset", progress=print)
    """
    cache = open_cache(source)
    form = replace(cache.format, storage=storage, compression=compression)
    described = {} if compression is None else {"compression": asdict(compression)}
    settings = {"made_by": "convert", "cache": cache.digest, "format": storage, **described}
    require_output_folder(out, settings)
    with naming_a_full_disk(out), folder_lock(out, what="a conversion"):
        begin(out, settings)
        keys = {shard.key for shard in cache.shards}
        sweep(out, known=keys)
        total = sum(shard.num_frames for shard in cache.shards)
        shards, kept, done = [], 0, 0
        for shard in cache.shards:
            record = read_record(out, shard.key)
            record = record if record is not None and _is_copy(record, shard, form) else None
            kept += record is not None
            shards.append((record or _rewrite(cache, shard, out, form)).shard)
            done += shard.num_frames
            progress(done, total)
        there = open_store(source)
        write_text(out / "failures.jsonl", (there.read("failures.jsonl") or b"").decode("utf-8"))
        index = json.loads(there.read(INDEX) or b"{}")
        index.pop("digest", None)
        index.pop("compression", None)
        index |= {"storage": storage, **described, "shards": [shard_to_dict(shard) for shard in shards]}
        digest = canonical_digest(index)
        write_text(out / INDEX, json.dumps({**index, "digest": digest}, indent=1))
        sweep(out, keys, finished=True, known=keys)
    return Converted(len(cache.tracks), total, len(shards) - kept, kept, digest)


def _is_copy(record: Record, shard: Shard, form: ShardFormat) -> bool:
    """Whether a record describes these tracks and frames; equal keys do not show it."""
    mine, theirs = record.shard, shard
    same = (mine.tracks, mine.blocks) == (theirs.tracks, theirs.blocks)
    return same and is_whole(record, form)


def _rewrite(cache: LatentCache, shard: Shard, out: Path, form: ShardFormat) -> Record:
    arrays = read_shard(ObjectReader(cache.origin), shard, cache.format, cache.streams)
    tracks = [
        as_encoded(
            Track(track.id, Path(), split=track.split, sha256=track.sha256),
            track,
            {name: those[number] for name, those in arrays.items()},
        )
        for number, track in enumerate(shard.tracks)
    ]
    return commit_frames(shard.key, tracks, out, form)
