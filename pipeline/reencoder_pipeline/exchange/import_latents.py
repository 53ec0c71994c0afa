"""Imports existing latents, as stable-audio-tools keeps them, into a new cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reencoder_pipeline.build.index import index_of
from reencoder_pipeline.cache.formats import int8 as int8_frames
from reencoder_pipeline.cache.index import FORMAT, INDEX, CachedTrack
from reencoder_pipeline.cache.layout import ShardFormat, rounding_notes, stored_as
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.exchange.items import Item, find_items
from reencoder_pipeline.exchange.output_folder import begin, require_output_folder
from reencoder_pipeline.exchange.stable_audio_format import UNKNOWN, frames_in, read_latents
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.progress import Progress, Say
from reencoder_pipeline.shards.job import failure_row
from reencoder_pipeline.shards.record import Record, is_whole, read_record
from reencoder_pipeline.shards.sweep import naming_a_full_disk, sweep
from reencoder_pipeline.shards.write_shard import commit_frames
from reencoder_pipeline.stores.atomic import write_text
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.jsonl import write_json_lines
from reencoder_pipeline.stores.own_folder import folder_lock
from reencoder_pipeline.tasks import TASKS


@dataclass(frozen=True)
class Imported:
    """The size of the cache; shards written now, and shards kept from an earlier run."""

    tracks: int
    frames: int
    shards_written: int
    shards_kept: int
    failures: int


@dataclass(frozen=True)
class Loaded:
    """An item, the track it becomes, and stream -> the content of its file, or the error from reading it."""

    item: Item
    track: Track
    content: dict[str, bytes] | Exception


def import_latents(
    folders: Mapping[str, Path],
    out: Path,
    spec: LatentSpec,
    config: CacheConfig,
    *,
    progress: Progress,
    say: Say = lambda message: None,
) -> tuple[Imported, list[dict[str, str]]]:
    """Make a cache in `out` from the items below `folders` (stream -> folder), encoded by the autoencoder of `spec`.

    Every item becomes a track without its padding; files of several folders with the same relative path form one item.
    For latents that no export of ours wrote, these stay unknown: the digest of their audio ("unknown"), bandwidth and
    stereo width (None; tasks are all that the streams can serve, unless the configuration lists some), and the exact
    number of samples (taken from the frames). Bad items are left out, returned, and listed in failures.jsonl. Repeat an
    interrupted call to resume. `progress(done, total)` counts frames. CacheError if no item can be imported.

    Example::

        import_latents({"mono": Path("items")}, Path("cache"), spec, config, progress=print)
    """
    if config.hours is not None:
        what = "an import always takes all items"
        raise ConfigError(what, where="hours", value=config.hours, remedy="leave out `hours`")
    config = config.model_copy(update={"streams": list(folders)})
    settings = {
        "made_by": "import",
        "autoencoder": spec.to_dict(),
        **{name: getattr(config, name) for name in ("streams", "format", "precision", "tasks")},
        **stored_as(config),
    }
    require_output_folder(out, settings)
    items, failures = find_items(folders, spec, say=say)
    splits = _splits(items, config)
    with naming_a_full_disk(out), folder_lock(out, what="an import"):
        begin(out, settings)
        sweep(out)
        total = sum(item.fields.num_frames for item in items)
        records, built, done = [], 0, 0
        for members in pack(items, config):
            loaded = [_load(item, spec, split=splits[item.recording]) for item in members]
            key = _key(loaded, settings)
            record = read_record(out, key)
            record = record if record is not None and _is_of(record, loaded, spec, config) else None
            built += record is None
            records.append(record or _commit(key, loaded, out, spec=spec, config=config))
            done += sum(item.fields.num_frames for item in members)
            progress(done, total)
        failures += [failure for record in records for failure in record.failures]
        write_json_lines(out / "failures.jsonl", failures)
        used = [record for record in records if record.shard.tracks]
        if not used:
            first = failures[0]["error"] if failures else "no .npy files there"
            what, remedy = "no item could be imported", "correct the first failure; failures.jsonl lists them all"
            raise CacheError(what, where=out, value=f"{len(failures)} failures: {first}", remedy=remedy)
        foreign = [track for record in used for track in record.shard.tracks if track.sha256 == UNKNOWN]
        notes = (*_notes(foreign), *rounding_notes(config))
        for note in notes:
            say(note)
        # How `low_band` was made is unknown unless the configuration states it.
        keys = {"rate": "low_band_rate", "resampler": "resampler"}
        stated = {name: getattr(config, key) for name, key in keys.items() if key in config.model_fields_set}
        low_band = {"rate": UNKNOWN, "resampler": UNKNOWN, **stated}
        write_text(out / INDEX, index_of(used, spec=spec, config=config, notes=notes, low_band=low_band))
        sweep(out, {record.shard.key for record in records}, finished=True)
    done = Imported(
        tracks=sum(len(record.shard.tracks) for record in used),
        frames=sum(record.shard.num_frames for record in used),
        shards_written=built,
        shards_kept=len(records) - built,
        failures=len(failures),
    )
    return done, failures


def _splits(items: Sequence[Item], config: CacheConfig) -> dict[str, str]:
    """Recording -> split: the one it had in a cache, else by the hash of its name, as in a build."""
    own: dict[str, str | None] = {}
    for item in items:
        own.setdefault(item.recording, item.fields.origin.split if item.fields.origin else None)
    recordings = [Track(name, Path(), split=split) for name, split in own.items()]
    assigned = assign_splits(recordings, valid_share=config.valid_share, test_share=config.test_share)
    return {track.id: track.split or "train" for track in assigned}


def pack(items: Sequence[Item], config: CacheConfig) -> list[list[Item]]:
    """Group items into shards; a shard ends with the item that reaches `shard_frames`."""
    packed, frames = [[]], 0
    for item in items:
        if frames >= config.shard_frames:
            packed.append([])
            frames = 0
        packed[-1].append(item)
        frames += item.fields.num_frames
    return packed if items else []


def _load(item: Item, spec: LatentSpec, *, split: str) -> Loaded:
    origin, files = item.fields.origin, item.files
    track = Track(item.id, next(iter(files.values())), split=split, sha256=origin.sha256 if origin else UNKNOWN)
    try:
        length = item.fields.length
        content = {name: read_latents(path, channels=spec.channels, length=length) for name, path in files.items()}
    except (CacheError, OSError) as error:
        return Loaded(item, track, error)
    return Loaded(item, track, content)


def _key(loaded: Sequence[Loaded], settings: Mapping[str, Any]) -> str:
    """Identify a shard by its content. An unreadable item that becomes readable changes the key."""
    items = [
        {
            "id": one.track.id,
            "split": one.track.split,
            "frames": [one.item.fields.length, one.item.fields.num_frames],
            "origin": origin.model_dump(exclude={"stream"}) if (origin := one.item.fields.origin) else None,
            "files": str(one.content)
            if isinstance(one.content, Exception)
            else {name: hashlib.sha256(data).hexdigest() for name, data in one.content.items()},
        }
        for one in loaded
    ]
    return canonical_digest({"format": FORMAT, "settings": settings, "items": items})[:20]


def _is_of(record: Record, loaded: Sequence[Loaded], spec: LatentSpec, config: CacheConfig) -> bool:
    """Whether a record describes these items, in order, without those that failed."""
    failed = {failure.get("id") for failure in record.failures}
    items = [one for one in loaded if one.item.name not in failed]
    expected = [(one.track.id, one.track.split, one.track.sha256, one.item.fields.num_frames) for one in items]
    found = [(track.id, track.split, track.sha256, track.num_frames) for track in record.shard.tracks]
    whole = len(found) + len(record.failures) == len(loaded)
    return found == expected and whole and is_whole(record, ShardFormat.of(config, channels=spec.channels))


def _commit(key: str, loaded: Sequence[Loaded], out: Path, *, spec: LatentSpec, config: CacheConfig) -> Record:
    ready, failures = [], []
    for one in loaded:
        try:
            ready.append(_encoded(one, spec, config))
        except (CacheError, OSError) as error:
            failures.append(failure_row(one.item.name, one.track.path, error))
    return commit_frames(key, ready, out, ShardFormat.of(config, channels=spec.channels), failures=failures)


def _encoded(one: Loaded, spec: LatentSpec, config: CacheConfig) -> EncodedTrack:
    """The item as an encoded track. CacheError or OSError if its files cannot be used."""
    fields, origin, content = one.item.fields, one.item.fields.origin, one.content
    if isinstance(content, Exception):
        raise content
    streams = {
        name: frames_in(
            content[name],
            channels=spec.channels,
            fields=fields,
            precision=int8_frames.working_precision(config.precision),
            where=one.item.files[name],
        )
        for name in config.streams
    }
    return EncodedTrack(
        track=one.track,
        num_samples=origin.num_samples if origin else spec.num_samples(fields.num_frames),
        num_frames=fields.num_frames,
        tasks=_tasks(one.item, config),
        bandwidth_hz=origin.bandwidth_hz if origin else None,
        side_mid_db=origin.side_mid_db if origin else None,
        streams=int8_frames.stored(streams, config.precision, keep_bits=config.keep_bits),
    )


def _tasks(item: Item, config: CacheConfig) -> tuple[str, ...]:
    if config.tasks != "measured":
        return tuple(config.tasks)
    served = [task.name for task in TASKS.values() if set(task.streams) <= set(config.streams)]
    return tuple(item.fields.origin.tasks if item.fields.origin else served)


def _notes(foreign: Sequence[CachedTrack]) -> tuple[str, ...]:
    if not foreign:
        return ()
    return (
        f"{len(foreign)} tracks are imported latents: digest, bandwidth and stereo width of their audio are unknown; "
        "stable-audio-tools stores a random sample of the posterior, and a build stores its mean",
    )
