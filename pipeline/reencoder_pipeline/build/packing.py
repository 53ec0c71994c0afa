"""Packs whole tracks into shards, and takes a part of a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from reencoder_pipeline.cache.index import FORMAT
from reencoder_pipeline.cache.layout import compression_of
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import SPLITS, Track
from reencoder_pipeline.corpora.splits import unit_hash
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.job import Job
from reencoder_pipeline.stores.digests import canonical_digest


@dataclass(frozen=True)
class PlannedTrack:
    """A track whose file could be opened: its digest and its length in the autoencoder's samples, by its header."""

    track: Track
    sha256: str
    num_samples: int


def take_hours(planned: Sequence[PlannedTrack], hours: float, *, sample_rate: int) -> list[PlannedTrack]:
    """About `hours` of whole tracks, in corpus order; each split keeps its share and at least one track.

    Tracks are taken by the hash of their id: the choice is the same wherever and in whatever order the corpus is read.
    """
    wanted = min(1.0, hours * 3600 * sample_rate / max(1, sum(item.num_samples for item in planned)))
    left = {split: wanted * sum(i.num_samples for i in planned if i.track.split == split) for split in SPLITS}
    taken = set()
    for item in sorted(planned, key=lambda item: unit_hash(item.track.id)):
        if item.track.split and left[item.track.split] > 0:
            left[item.track.split] -= item.num_samples
            taken.add(item.track.id)
    return [item for item in planned if item.track.id in taken]


def pack(planned: Sequence[PlannedTrack], spec: LatentSpec, config: CacheConfig) -> Iterator[Job]:
    """Whole tracks in corpus order. A shard closes, between half and twice `shard_frames`, at a track that is chosen by
    the hash of its id, so that a track more or less moves the ends of few shards: of those until the next such track
    that is far enough from the end before. Every frame is as likely to be followed by an end, whatever the tracks'
    lengths; shards are `shard_frames` long on average. The last one may be smaller."""
    half, members, frames = config.shard_frames / 2, [], 0
    made_with = canonical_digest([spec.to_dict(), settings(config)])
    for item in planned:
        its_frames = spec.num_frames(item.num_samples)
        members.append(item)
        frames += its_frames
        # Not the hash that chose the split: or the shards would end at tracks of the test split.
        chosen = unit_hash(f"end of a shard: {item.track.id}") < 1 - math.exp(-its_frames / half)
        if frames >= 4 * half or (frames >= half and chosen):
            yield _job(members, frames, made_with, config)
            members, frames = [], 0
    if members:
        yield _job(members, frames, made_with, config)


def _job(members: Sequence[PlannedTrack], frames: int, made_with: str, config: CacheConfig) -> Job:
    """A shard is identified by what it is made of, never by its position in a list."""
    tracks = tuple(replace(item.track, sha256=item.sha256) for item in members)
    recipes = tuple(_recipe(track, made_with, config) for track in tracks)
    rows = [[track.id, track.split, recipe] for track, recipe in zip(tracks, recipes, strict=True)]
    key = canonical_digest({"format": FORMAT, "tracks": rows})[:20]
    return Job(key=key, tracks=tracks, num_frames=frames, recipes=recipes)


def _recipe(track: Track, made_with: str, config: CacheConfig) -> str:
    """All that the frames and measurements of a track are made of. Its id and its split are not."""
    tasks = track.tasks if config.tasks == "measured" else None
    return canonical_digest([made_with, track.sha256, track.num_samples, tasks])[:20]


def settings(config: CacheConfig) -> dict[str, Any]:
    """The part of the configuration that the bytes of a shard depend on."""
    names = {"format", *(field.name for field in fields(EncodeSettings))}
    values = config.model_dump(include=names, exclude_none=True)
    compression = compression_of(config)
    if compression is not None:
        values |= {"compression": compression.codec, "compression_level": compression.level}
    return values
