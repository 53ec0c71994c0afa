"""Writes one shard beside its place, digests it, and puts it there."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from reencoder_pipeline.cache.channel_sums import Sums
from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.int8 import latents_of
from reencoder_pipeline.cache.formats.tar_shards import sample_key, write_tar_shard
from reencoder_pipeline.cache.formats.zarr_shards import foreign_files, write_zarr_shard
from reencoder_pipeline.cache.index import CachedTrack, Shard
from reencoder_pipeline.cache.layout import ShardFormat, group_name
from reencoder_pipeline.encoding.encoded_track import MEASURED, EncodedTrack
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shards.record import Record, grouped_sums, write_record
from reencoder_pipeline.stores.atomic import beside, remove, sync
from reencoder_pipeline.stores.digests import file_digest


def commit_frames(
    key: str,
    tracks: Sequence[EncodedTrack],
    out: Path,
    form: ShardFormat,
    *,
    failures: Sequence[dict[str, str]] = (),
) -> Record:
    """Write a shard of frames that exist already, whole or not there, and its commit record."""
    sums = sums_of(key, tracks, form)
    record = Record(write_shard(key, tracks, out, form), sums, tuple(failures), retry=False)
    write_record(out, record)
    return record


def sums_of(key: str, encoded: Sequence[EncodedTrack], form: ShardFormat) -> dict[str, dict[str, Sums]]:
    pieces = {name: [latents_of(item.streams, name) for item in encoded] for name in form.streams}
    return grouped_sums(_cached_tracks(key, encoded), pieces, channels=form.channels)


def write_shard(key: str, encoded: Sequence[EncodedTrack], out: Path, form: ShardFormat) -> Shard:
    """Write beside its place, digest, sync, rename. What a killed build left there without a record is replaced."""
    final, partial = out / form.place(key), beside(out / group_name(key))
    if not encoded:  # every file failed; the record alone remembers it
        _clear(final)
        return Shard(key, 0, (), {}, {})
    joined = {name: np.concatenate([item.streams[name] for item in encoded]) for name in form.names}
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        if form.storage == "zarr":
            write_zarr_shard(partial, joined, compression=form.compression)
        else:
            keys = [sample_key(position, item.track.id) for position, item in enumerate(encoded)]
            write_tar_shard(partial, keys, [item.streams for item in encoded])
        files = _digests(partial, final.relative_to(out).as_posix())
        _place(partial, final)
    except BaseException:
        remove(partial)
        raise
    return Shard(
        key=key,
        num_frames=sum(item.num_frames for item in encoded),
        tracks=tuple(_cached_tracks(key, encoded)),
        files=files,
        blocks={name: block_checksums(frames) for name, frames in joined.items()},
    )


def _place(partial: Path, final: Path) -> None:
    """Rename a shard to its place. The same shard, which another process has placed in this moment, is kept."""
    _clear(final)
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove(partial)
    sync(final.parent)


def _clear(final: Path) -> None:
    """Remove what lies at the place of a shard: renamed first, so that no part of it is ever at that place."""
    if others := foreign_files(final):
        raise CacheError(
            "files that this program did not make lie in the folder of a shard that has to be made again",
            where=final, value=", ".join(others[:3]), remedy="move them away; nothing was changed",
        )  # fmt: skip
    aside = beside(final)
    with suppress(FileNotFoundError):
        final.rename(aside)
    remove(aside)


def _digests(written: Path, name: str) -> dict[str, tuple[int, str]]:
    """Sync a shard, folders too; the path of each of its files in the finished cache -> (bytes, sha256)."""
    files = {}
    for path in [written, *sorted(written.rglob("*"))]:
        sync(path)
        if path.is_dir():
            continue
        inside = "" if path == written else f"/{path.relative_to(written).as_posix()}"
        files[name + inside] = (path.stat().st_size, file_digest(path))
    return files


def _cached_tracks(key: str, encoded: Sequence[EncodedTrack]) -> list[CachedTrack]:
    tracks, first_frame = [], 0
    for item in encoded:
        measured = {name: getattr(item, name) for name in MEASURED}
        its = item.track
        assert its.split, "planning assigned a split"
        assert its.sha256, "planning digested the file"
        tracks.append(CachedTrack(its.id, its.split, its.sha256, **measured, first_frame=first_frame, shard=key))
        first_frame += item.num_frames
    return tracks
