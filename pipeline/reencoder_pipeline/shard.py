"""Make one shard: encode its tracks, write it beside its place, digest, sync, rename, and commit it with a record."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache import CachedTrack, Shard
from reencoder_pipeline.commit import SHARDS, write_record
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpus import Track
from reencoder_pipeline.durable import sync
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.record import Record, sum_frames
from reencoder_pipeline.tar_shards import sample_key, write_tar_shard
from reencoder_pipeline.track import EncodedTrack, encode_tracks
from reencoder_pipeline.zarr_shards import CHUNK_FRAMES, write_zarr_shard

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder

Frames = NDArray[Any]


@dataclass(frozen=True)
class Job:
    """A shard to make. `num_frames` is an estimate from the headers of the files."""

    key: str
    tracks: tuple[Track, ...]
    num_frames: int


def build_shard(job: Job, autoencoder: Autoencoder, out: Path, config: CacheConfig) -> Record:
    """Encode and commit. A file that fails is named in the record and nothing takes its place."""
    encoded, failures, retry = [], [], False
    for track, outcome in encode_tracks(autoencoder, job.tracks, config):
        if isinstance(outcome, EncodedTrack):
            encoded.append(outcome)
        else:
            failures.append(failure_row(track, outcome))
            retry = retry or not isinstance(outcome, AudioError)
    shard = _write_shard(job.key, encoded, out, config)
    trained = [item for item in encoded if item.track.split == "train"]
    sums = {
        which: {
            name: sum_frames([item.streams[name] for item in chosen], channels=autoencoder.spec.channels)
            for name in config.streams
        }
        for which, chosen in (("train", trained), ("all", encoded))
    }
    record = Record(shard, sums, tuple(failures), retry)
    write_record(out, record)
    return record


def failure_row(track: Track, error: Exception) -> dict[str, str]:
    """A line of failures.jsonl."""
    return {"id": track.id, "path": str(track.path), "error": str(error) or repr(error)}


def block_checksums(frames: Frames) -> tuple[int, ...]:
    """crc32c of every 1,024 frames: an uncompressed Zarr shard notices no flipped bit by itself."""
    import google_crc32c

    return tuple(
        google_crc32c.value(np.ascontiguousarray(frames[start : start + CHUNK_FRAMES]).tobytes())
        for start in range(0, len(frames), CHUNK_FRAMES)
    )


def _write_shard(key: str, encoded: Sequence[EncodedTrack], out: Path, config: CacheConfig) -> Shard:
    if not encoded:  # every file failed; the record alone remembers it
        return Shard(key, 0, (), {}, {})
    joined = {name: np.concatenate([item.streams[name] for item in encoded]) for name in config.streams}
    partial = out / SHARDS / f"{key}.{os.getpid()}.partial"
    try:
        if config.format == "zarr":
            final = out / SHARDS / key
            write_zarr_shard(partial, joined)
        else:
            final = out / SHARDS / f"{key}.tar"
            keys = [sample_key(position, item.track.id) for position, item in enumerate(encoded)]
            write_tar_shard(partial, keys, [item.streams for item in encoded])
        files = _digests(partial, final.relative_to(out).as_posix())
    except BaseException:
        _remove(partial)
        raise
    _remove(final)  # a shard whose record was lost or damaged
    partial.rename(final)
    sync(out / SHARDS)
    return Shard(
        key=key,
        num_frames=sum(item.num_frames for item in encoded),
        tracks=tuple(_cached_tracks(key, encoded)),
        files=files,
        blocks={name: block_checksums(frames) for name, frames in joined.items()},
    )


def _digests(written: Path, name: str) -> dict[str, tuple[int, str]]:
    """Sync a shard, folders too; the path of each of its files in the finished cache -> (bytes, sha256)."""
    files = {}
    for path in [written, *sorted(written.rglob("*"))]:
        sync(path)
        if path.is_dir():
            continue
        inside = "" if path == written else f"/{path.relative_to(written).as_posix()}"
        with path.open("rb") as file:
            files[name + inside] = (path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return files


def _cached_tracks(key: str, encoded: Sequence[EncodedTrack]) -> list[CachedTrack]:
    tracks, first_frame = [], 0
    for item in encoded:
        assert item.track.split, "planning assigned a split"
        assert item.track.sha256, "planning digested the file"
        tracks.append(
            CachedTrack(
                id=item.track.id,
                split=item.track.split,
                sha256=item.track.sha256,
                num_samples=item.num_samples,
                num_frames=item.num_frames,
                tasks=item.tasks,
                bandwidth_hz=item.bandwidth_hz,
                side_mid_db=item.side_mid_db,
                first_frame=first_frame,
                shard=key,
            )
        )
        first_frame += item.num_frames
    return tracks


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
