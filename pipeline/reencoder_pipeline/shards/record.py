"""The commit record of a shard: what it holds, the sums its statistics are made from, and the files that failed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.channel_sums import Sums, added, moments, sum_frames
from reencoder_pipeline.cache.formats.zarr_shards import descriptions
from reencoder_pipeline.cache.index import CachedTrack, Shard, shard_from_dict, shard_to_dict
from reencoder_pipeline.cache.index_schema import layout_problems, require_record
from reencoder_pipeline.cache.layout import ShardFormat, group_name, record_name
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.store import Store, open_store


@dataclass(frozen=True)
class Record:
    """`sums` is what `grouped_sums` makes; `failures` are lines of failures.jsonl. `retry`: one of them was not the
    file's own fault (a disk that went away, no memory), so the next build makes the shard again. `recipes`: of each of
    the shard's tracks, a digest of all that its frames and measurements are made of; none where that is not known.
    `reused`, which is not stored: how many tracks were copied from other shards by the process that made this shard
    just now; None in a record that was read.
    """

    shard: Shard
    sums: dict[str, dict[str, Sums]]
    failures: tuple[dict[str, str], ...]
    retry: bool
    recipes: tuple[str, ...] = ()
    reused: int | None = None


def statistics(stream: str, records: Sequence[Record]) -> dict[str, list[float]]:
    """Mean and standard deviation per channel over the train split; over everything, where no track is for training."""
    which = _which(records)
    return moments([record.sums[which][stream] for record in records])


def sums_by_tasks(records: Sequence[Record]) -> list[dict[str, Any]] | None:
    """For the index: the sums over the tracks that `statistics` is made of, apart for each set of tasks that they
    serve, so that the statistics of the tracks of any task can be made of them. They take 10 kB a set of tasks (4
    streams of 64 channels), and sums of every track would take 5 kB a track.

    None where the tracks all serve the same tasks, or an older record does not hold its sums apart.
    """
    which, parts = _which(records), defaultdict[tuple[str, ...], list[dict[str, Sums]]](list)
    for record in records:
        groups = {tasks_of(track) for track in record.shard.tracks if which == "all" or track.split == "train"}
        for tasks in groups:
            sums = record.sums.get(which if len(groups) == 1 else f"{which}:{','.join(tasks)}")
            if sums is None:
                return None
            parts[tasks].append(sums)
    if len(parts) < 2:
        return None
    return [
        {
            "tasks": list(tasks),
            "streams": {stream: added([part[stream] for part in those]).to_dict() for stream in those[0]},
        }
        for tasks, those in sorted(parts.items())
    ]


def grouped_sums(
    tracks: Sequence[CachedTrack], pieces: Mapping[str, Sequence[NDArray[Any]]], *, channels: int
) -> dict[str, dict[str, Sums]]:
    """Sums for `Record.sums`: over the tracks for training, over all tracks and, if tracks serve different tasks, over
    each set of tasks. `pieces`: stream -> (frames, channels) of each track."""
    sums: dict[str, dict[str, Sums]] = {}

    def add(name: str, chosen: Sequence[int]) -> None:
        sums[name] = {
            stream: sum_frames([those[number] for number in chosen], channels=channels)
            for stream, those in pieces.items()
        }

    for which in ("train", "all"):
        chosen = [number for number, track in enumerate(tracks) if which == "all" or track.split == "train"]
        add(which, chosen)
        groups = sorted({tasks_of(tracks[number]) for number in chosen})
        for tasks in groups if len(groups) > 1 else ():
            add(f"{which}:{','.join(tasks)}", [number for number in chosen if tasks_of(tracks[number]) == tasks])
    return sums


def tasks_of(track: CachedTrack) -> tuple[str, ...]:
    return tuple(sorted(track.tasks))


def _which(records: Sequence[Record]) -> str:
    trained = any(track.split == "train" for record in records for track in record.shard.tracks)
    return "train" if trained else "all"


def is_whole(record: Record, form: ShardFormat) -> bool:
    """Whether a record tells all files, checksums and sums that a shard of its tracks has in this format, and the sums
    can be those of so many frames."""
    shard = record.shard
    if shard.tracks:
        described = {f"{group_name(shard.key)}/{inside}" for inside in descriptions(form.names)}
        if next(layout_problems(vars(shard), form), None) is not None:
            return False
        if form.storage == "zarr" and not described <= shard.files.keys():
            return False
    elif shard.files or shard.blocks:
        return False
    return {"train", "all"} <= record.sums.keys() and all(
        sums.keys() == set(form.streams)
        and all(_can_be(one, frames=_frames_of(group, shard), channels=form.channels) for one in sums.values())
        for group, sums in record.sums.items()
    )


def _frames_of(group: str, shard: Shard) -> int | None:
    """How many frames the tracks of this group of `Record.sums` have; None where there is no such group."""
    which, colon, tasks = group.partition(":")
    if which not in ("train", "all"):
        return None
    return sum(
        track.num_frames
        for track in shard.tracks
        if (which == "all" or track.split == "train") and (not colon or ",".join(tasks_of(track)) == tasks)
    )


def _can_be(sums: Sums, *, frames: int | None, channels: int) -> bool:
    """Whether so many numbers can have these sums: the square of a mean is at most the mean of the squares."""
    if sums.count != frames or not len(sums.total) == len(sums.squares) == channels:
        return False
    most = np.sqrt(sums.count) * np.sqrt(sums.squares)
    return bool((np.abs(sums.total) <= most * (1 + 1e-9)).all())


def record_to_dict(record: Record) -> dict[str, Any]:
    return {
        "shard": shard_to_dict(record.shard),
        "sums": {
            which: {name: sums.to_dict() for name, sums in streams.items()} for which, streams in record.sums.items()
        },
        "failures": list(record.failures),
        "retry": record.retry,
        "recipes": list(record.recipes),
    }


def record_from_dict(values: dict[str, Any]) -> Record:
    """The inverse of record_to_dict. ValueError or CacheError where it cannot be one of our records."""
    require_record(values)
    sums = {
        which: {name: Sums.from_dict(sums) for name, sums in streams.items()}
        for which, streams in values["sums"].items()
    }
    shard, recipes = shard_from_dict(values["shard"]), tuple(values.get("recipes", ()))
    return Record(shard, sums, tuple(values["failures"]), values["retry"], recipes)


REQUESTS = 16  # records read at a time


def record_digest(record: Record) -> str:
    return canonical_digest(record_to_dict(record))


def write_record(out: Path | str | Store, record: Record) -> None:
    """Commit a shard. The record holds its own digest: a flipped bit in its sums would spoil the statistics."""
    content = json.dumps({**record_to_dict(record), "digest": record_digest(record)}).encode()
    open_store(out).write(record_name(record.shard.key), content)


def read_record(out: Path | str | Store, key: str, sizes: Mapping[str, int] | None = None) -> Record | None:
    """The commit record of a finished shard whose files are all there in full size; None if it has to be built.

    `sizes` are those of the store, where they have been listed already.
    """
    store = open_store(out)
    record = parse_record(store.read(record_name(key)))
    if record is None or record.shard.key != key:  # a copy of another shard's record would stand for two shards
        return None
    found = {name: store.size(name) for name in record.shard.files} if sizes is None else sizes
    return record if all(found.get(name) == size for name, (size, _) in record.shard.files.items()) else None


def read_records(store: Store, keys: Iterable[str], sizes: Mapping[str, int]) -> dict[str, Record]:
    """The records of those `keys` that are finished, in their order."""
    there = [key for key in keys if record_name(key) in sizes]
    with ThreadPoolExecutor(REQUESTS) as pool:
        records = pool.map(lambda key: read_record(store, key, sizes), there)
        return {key: record for key, record in zip(there, records, strict=True) if record is not None}


def parse_record(content: bytes | None) -> Record | None:
    """None if the record is missing or damaged."""
    try:
        values = json.loads(content or b"")
        digest = values.pop("digest")
        return record_from_dict(values) if digest == canonical_digest(values) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CacheError):
        return None
