"""Export: the tracks of a cache as items for stable-audio-tools, one subfolder a stream, and a manifest of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from reencoder_pipeline.exchange.output_folder import begin, require_known_streams
from reencoder_pipeline.exchange.stable_audio_format import FIELDS, LATENTS, Origin, fields_of, latents_bytes
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.sweep import naming_a_full_disk
from reencoder_pipeline.stores.atomic import write_text, write_whole
from reencoder_pipeline.stores.checked_reader import ObjectReader
from reencoder_pipeline.stores.digests import canonical_digest

DETAILS, MANIFEST = "details.json", "manifest.jsonl"
WRITERS = 8  # most of the time a small file is being synced, and syncs of several are one


@dataclass(frozen=True)
class Exported:
    """What was done: items written now, and items that an earlier run had finished."""

    items_written: int
    items_kept: int


@dataclass(frozen=True)
class Item:
    """One `.npy` to write: `length` frames, of which the end may be padding; `name` is its place without a suffix."""

    name: str
    track: CachedTrack
    origin: Origin
    num_frames: int
    length: int


def export_cache(
    source: Path | str,
    out: Path,
    *,
    streams: Sequence[str] = (),
    splits: Sequence[str] = (),
    length: int | None = None,
    progress: Callable[[int, int], None],
) -> Exported:
    """Write `streams` (all) of the tracks of `splits` (all): <stream>/<item>.npy and .json, and manifest.jsonl last.

    An item is a track, or with `length` every so many frames of one, the last padded: stable-audio-tools stacks items
    into batches, so they have to be equally long unless its `latent_crop_length` makes them so. Values are those of the
    cache, in its precision. The same command again goes on where it stopped. CacheError: `source` is damaged, or `out`
    holds anything but this export.
    """
    cache = open_cache(source)
    require_known_streams(cache)
    for kind, asked, known in (("stream", streams, cache.streams), ("split", splits, SPLITS)):
        if unknown := [name for name in asked if name not in known]:
            raise CacheError(f"no such {kind}", where=source, value=unknown[0], remedy=f"one of: {', '.join(known)}")
    chosen, wanted = [name for name in cache.streams if not streams or name in streams], splits or SPLITS
    tracks = {track.id: number for number, track in enumerate(cache.tracks) if track.split in wanted}
    if not tracks:
        raise CacheError("no tracks in this split", where=source, value=", ".join(wanted))
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
        begin(out / DETAILS, details)
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
        write_text(out / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
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
    """The fields last: they say that the latents are there."""
    first = item.origin.first_frame
    piece = frames[item.track][item.origin.stream][first : first + item.num_frames]
    if not np.isfinite(piece).all():
        where, remedy = f"{item.origin.id}, stream {item.origin.stream}", "build the cache again"
        raise CacheError("the cache holds values that are not finite numbers", where=where, remedy=remedy)
    write_whole(out / (item.name + LATENTS), latents_bytes(piece, length=item.length))
    write_text(out / (item.name + FIELDS), json.dumps(fields_of(item.origin, spec, length=item.length)))


def _items(
    track: CachedTrack, number: int, cache: LatentCache, streams: Sequence[str], length: int | None
) -> Iterator[Item]:
    """Names are safe for any file system, and a track's is the same whatever streams and splits are exported."""
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
                raise CacheError("the index is damaged", where=cache.origin, value=str(error)) from None
            name = f"{stream}/{key}" + (f"_{first:08d}" if length else "")
            yield Item(name, track, origin, num_frames, length=step)
