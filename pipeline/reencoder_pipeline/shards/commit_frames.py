"""Writes and commits a shard of frames that exist already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.shards.record import Record, write_record
from reencoder_pipeline.shards.write_shard import sums_of, write_shard


def commit_frames(
    key: str,
    tracks: Sequence[EncodedTrack],
    out: Path,
    form: ShardFormat,
    *,
    failures: Sequence[dict[str, str]] = (),
) -> Record:
    """Write a shard, whole or not there, and its commit record. As a build does, without encoding."""
    sums = sums_of(key, tracks, form)
    record = Record(write_shard(key, tracks, out, form), sums, tuple(failures), retry=False)
    write_record(out, record)
    return record
