"""Exports the tracks of a cache as items for stable-audio-tools: one subfolder for each stream, and a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from reencoder_pipeline.cache.formats.int8 import latents_of
from reencoder_pipeline.cache.formats.tar_shards import sample_key
from reencoder_pipeline.cache.index import CachedTrack, Shard
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cache.shard_frames import Frames, read_shard
from reencoder_pipeline.corpora.corpus import SPLITS
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.exchange.output_folder import begin
from reencoder_pipeline.exchange.stable_audio_format import FIELDS, LATENTS, Origin, fields_of, latents_bytes
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.progress import Progress
from reencoder_pipeline.shards.sweep import naming_a_full_disk
from reencoder_pipeline.stores.atomic import write_text, write_whole
from reencoder_pipeline.stores.checked_reader import ObjectReader
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.jsonl import write_json_lines

DETAILS, MANIFEST = "details.json", "manifest.jsonl"
WRITERS = 8  # threads; most of the time goes to syncing small files, and concurrent syncs are merged


@dataclass(frozen=True)
class Exported:
    """Counts of an export: items written now, and items kept from an earlier run."""

    items_written: int
    items_kept: int


@dataclass(frozen=True)
class Item:
    """One `.npy` to write: `length` frames, possibly padded at the end; `name` is its path without a suffix."""

    name: str
    track: CachedTrack
    origin: Origin
    length: int


def export_cache(
    source: Path | str,
    out: Path,
    *,
    streams: Sequence[str] = (),
    splits: Sequence[str] = (),
    length: int | None = None,
    progress: Progress,
) -> Exported:
    """Write <stream>/<item>.npy and .json for `streams` and `splits` (empty: all), and manifest.jsonl last.

    An item is a whole track, or with `length` each piece of that many frames, the last one padded. stable-audio-tools
    stacks items into batches, so they must be equally long unless its `latent_crop_length` cuts them. Values are the
    cache's own, in its precision. Repeat an interrupted call to resume. `progress(done, total)` counts frames.
    CacheError if `source` is damaged, or `out` holds anything else.

    Example::

        export_cache("cache", Path("items"), streams=["mono"], length=1024, progress=print)
    """
    cache = open_cache(source)
    for kind, asked, known in (("stream", streams, cache.streams), ("split", splits, SPLITS)):
        if unknown := [name for name in asked if name not in known]:
            what, remedy = f"the cache has no such {kind}", f"choose from: {', '.join(known)}"
            raise CacheError(what, where=source, value=unknown[0], remedy=remedy)
    chosen, wanted = [name for name in cache.streams if not streams or name in streams], splits or SPLITS
    tracks = {track.id: number for number, track in enumerate(cache.tracks) if track.split in wanted}
    if not tracks:
        what, remedy = "the cache has no tracks in this split", "choose another --split, or leave it out for all"
        raise CacheError(what, where=source, value=", ".join(wanted), remedy=remedy)
    details = {
        "format": "reencoder-export-1",
        "cache": cache.digest,
        "latent_spec": cache.spec.to_dict(),
        "low_band": cache.low_band,
        "precision": cache.precision,
        "notes": list(cache.notes),
        "streams": chosen,
        "splits": [name for name in SPLITS if name in wanted],
        "length": length,
    }
    rows, written, done = [], 0, 0
    total = sum(track.num_frames for track in cache.tracks if track.id in tracks)
    with naming_a_full_disk(out):
        begin(out, details, name=DETAILS)
        for name in chosen:
            (out / name).mkdir(exist_ok=True)
        for shard in cache.shards:
            mine = [track for track in shard.tracks if track.id in tracks]
            items = [item for track in mine for item in _items(track, tracks[track.id], cache, chosen, length)]
            rows += [{"file": item.name + LATENTS, **item.origin.model_dump()} for item in items]
            if missing := [item for item in items if not (out / (item.name + FIELDS)).is_file()]:
                frames = _frames(cache, shard, chosen)
                with ThreadPoolExecutor(WRITERS) as pool:
                    for _ in pool.map(partial(_write, frames=frames, out=out, spec=cache.spec), missing):
                        pass
            written += len(missing)
            done += sum(track.num_frames for track in mine)
            progress(done, total)
        write_json_lines(out / MANIFEST, rows)
    return Exported(written, len(rows) - written)


def _frames(cache: LatentCache, shard: Shard, streams: Sequence[str]) -> dict[CachedTrack, dict[str, Frames]]:
    """Track -> stream -> its latents."""
    stored = read_shard(ObjectReader(cache.origin), shard, cache.format, streams)
    arrays = [{name: those[number] for name, those in stored.items()} for number in range(len(shard.tracks))]
    return {
        track: {stream: latents_of(its, stream) for stream in streams}
        for track, its in zip(shard.tracks, arrays, strict=True)
    }


def _write(item: Item, *, frames: Mapping[CachedTrack, dict[str, Frames]], out: Path, spec: LatentSpec) -> None:
    """Write the latents, then the fields, which mark them as complete."""
    first = item.origin.first_frame
    piece = frames[item.track][item.origin.stream][first : first + item.length]
    if not np.isfinite(piece).all():
        where, remedy = f"{item.origin.id}, stream {item.origin.stream}", "build the cache again"
        raise CacheError("the cache holds values that are not finite numbers", where=where, remedy=remedy)
    write_whole(out / (item.name + LATENTS), latents_bytes(piece, length=item.length))
    write_text(out / (item.name + FIELDS), json.dumps(fields_of(item.origin, spec, length=item.length)))


def _items(
    track: CachedTrack, number: int, cache: LatentCache, streams: Sequence[str], length: int | None
) -> Iterator[Item]:
    """The items of a track. Their names suit any file system, and do not depend on the exported streams and splits."""
    step = length or track.num_frames
    key, spec = sample_key(number, track.id), cache.spec
    for first in range(0, track.num_frames, step):
        num_frames = min(step, track.num_frames - first)
        for stream in streams:
            values = {
                "id": track.id,
                "sha256": track.sha256,
                "split": track.split,
                "stream": stream,
                "latent_spec": canonical_digest(spec.to_dict()),
                "tasks": list(track.tasks),
                "bandwidth_hz": track.bandwidth_hz,
                "side_mid_db": track.side_mid_db,
                "first_frame": first,
                "num_samples": min(spec.num_samples(num_frames), track.num_samples - spec.num_samples(first)),
                "track_samples": track.num_samples,
            }
            try:
                origin = Origin.model_validate(values)
            except ValidationError as error:
                what, remedy = "the index is damaged", "restore index.json, or build the cache again"
                raise CacheError(what, where=cache.origin, value=str(error), remedy=remedy) from None
            name = f"{stream}/{key}" + (f"_{first:08d}" if length else "")
            yield Item(name, track, origin, length=step)
