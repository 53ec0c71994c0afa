"""Make one shard: claim, encode, write beside its place, digest, sync, rename, and commit it with a record."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reencoder_pipeline.cache import CachedTrack, Shard
from reencoder_pipeline.channel_sums import Sums
from reencoder_pipeline.claims import Claim, take
from reencoder_pipeline.commit import (
    SHARDS,
    claim_name,
    read_record,
    record_bytes,
    record_digest,
    record_name,
    write_record,
)
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpus import Track
from reencoder_pipeline.durable import beside, sync
from reencoder_pipeline.errors import AudioError, CacheError
from reencoder_pipeline.int8_frames import latents_of, stored_names
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.record import Record, block_checksums, grouped_sums, is_whole
from reencoder_pipeline.reuse import copied_tracks, temporary_folder
from reencoder_pipeline.store import FolderStore, Store, open_store
from reencoder_pipeline.tar_shards import sample_key, write_tar_shard
from reencoder_pipeline.track import EncodedTrack, encode_tracks
from reencoder_pipeline.zarr_shards import foreign_files, write_zarr_shard

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder

UPLOADS = 8  # files of a shard sent at a time


@dataclass(frozen=True)
class Job:
    """A shard to make. `num_frames` is an estimate from the headers of the files.

    `recipes`: of each track, a digest of all that its frames and measurements are made of. `sources`: recipe -> key of
    a committed shard to copy such a track from. `replaces`: digest of a record that is to be made anew.
    """

    key: str
    tracks: tuple[Track, ...]
    num_frames: int
    recipes: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    replaces: str | None = None


def is_of(job: Job, record: Record, config: CacheConfig, spec: LatentSpec) -> bool:
    """Whether this record of the job's shard will do: not the one that is to be made anew, nor one of other tracks."""
    return is_made_of(job, record, config, spec) and (job.replaces is None or record_digest(record) != job.replaces)


def is_made_of(job: Job, record: Record, config: CacheConfig, spec: LatentSpec) -> bool:
    """Whether a record is that of the job's shard: its key, its tracks in their order, what each of them is made of,
    and all that a shard of them has."""
    tracks, failed = record.shard.tracks, {failure.get("id") for failure in record.failures}
    made = [(track, recipe) for track, recipe in zip(job.tracks, job.recipes, strict=True) if track.id not in failed]
    if record.shard.key != job.key or len(made) != len(tracks) or len(tracks) + len(record.failures) != len(job.tracks):
        return False
    # Older records do not know their recipes; those of the job are in its key.
    recipes = record.recipes or tuple(recipe for _, recipe in made)
    return is_whole(record, config, channels=spec.channels) and all(
        (there.id, there.split, there.sha256) == (track.id, track.split, track.sha256)
        and its_recipe == recipe
        and there.num_frames == spec.num_frames(there.num_samples)
        for there, its_recipe, (track, recipe) in zip(tracks, recipes, made, strict=True)
    )


class AlreadyPlacedError(Exception):
    """Another process put the same shard in place meanwhile."""


def build_shard(job: Job, autoencoder: Autoencoder, out: Path | str | Store, config: CacheConfig) -> Record | None:
    """Claim, encode and commit; None if another builder holds the claim or took it over. A file that fails is named in
    the record and nothing takes its place. Tracks that `job.sources` name are copied."""
    store = open_store(out)
    claim = take(store, claim_name(job.key), lease=config.lease)
    if claim is None:
        return None
    with claim:
        there = read_record(store, job.key)
        if there is not None and is_of(job, there, config, autoencoder.spec):
            return there  # committed by another builder since this job was planned
        channels = autoencoder.spec.channels
        known = copied_tracks(job.tracks, job.recipes, job.sources, store, config, channels=channels)
        copied = {item.track.id: item for item in known}
        rest = [track for track in job.tracks if track.id not in copied]
        outcomes: dict[str, EncodedTrack | Exception] = {**copied}
        outcomes |= {track.id: outcome for track, outcome in encode_tracks(autoencoder, rest, config)}

        encoded, recipes, failures, retry = [], [], [], False
        for track, recipe in zip(job.tracks, job.recipes, strict=True):
            outcome = outcomes[track.id]
            if isinstance(outcome, EncodedTrack):
                encoded.append(outcome)
                recipes.append(recipe)
            else:
                failures.append(failure_row(track, outcome))
                retry = retry or not isinstance(outcome, AudioError)
        sums = sums_of(job.key, encoded, config, channels=channels)
        try:
            shard = _deliver(job.key, encoded, store, config, claim)
        except AlreadyPlacedError:
            return None
        except OSError:
            if claim.is_held():
                raise
            return None  # whoever took over swept this one's pieces away
        record = Record(shard, sums, tuple(failures), retry, tuple(recipes), reused=len(copied))
        return _commit(record, store, claim)


def _deliver(key: str, encoded: Sequence[EncodedTrack], store: Store, config: CacheConfig, claim: Claim) -> Shard:
    """Written in place in a folder; for a URL in a temporary folder, then sent."""
    if isinstance(store, FolderStore):
        # The one way in which a shard may lie there: it was committed before and is damaged, or was never committed.
        replace = any(path.exists() for path in _places(store.folder, key))
        if not claim.is_held():
            raise AlreadyPlacedError
        return write_shard(key, encoded, store.folder, config, replace=replace)
    with temporary_folder() as folder:
        shard = write_shard(key, encoded, folder, config)
        if not claim.is_held():
            raise AlreadyPlacedError
        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(lambda name: store.upload(folder / name, name), shard.files))
    return shard


def _commit(record: Record, store: Store, claim: Claim) -> Record | None:
    """The record makes the shard. Whoever took over commits for himself."""
    name = record_name(record.shard.key)
    if not claim.is_held():
        return None
    if store.size(name) is not None:  # damaged, or to be made anew
        write_record(store, record)
    elif not store.create(name, record_bytes(record)):
        return read_record(store, record.shard.key)
    return record


def sums_of(
    key: str, encoded: Sequence[EncodedTrack], config: CacheConfig, *, channels: int
) -> dict[str, dict[str, Sums]]:
    pieces = {name: [latents_of(item.streams, name) for item in encoded] for name in config.streams}
    return grouped_sums(_cached_tracks(key, encoded), pieces, channels=channels)


def failure_row(track: Track, error: Exception) -> dict[str, str]:
    """A line of failures.jsonl."""
    return {"id": track.id, "path": str(track.path), "error": str(error) or repr(error)}


def _places(out: Path, key: str) -> tuple[Path, Path]:
    return out / SHARDS / key, out / SHARDS / f"{key}.tar"


def write_shard(
    key: str, encoded: Sequence[EncodedTrack], out: Path, config: CacheConfig, *, replace: bool = True
) -> Shard:
    """Write beside its place, digest, sync, rename. AlreadyPlacedError if something lies there that is not to be
    replaced."""
    if not encoded:  # every file failed; the record alone remembers it
        return Shard(key, 0, (), {}, {})
    names = stored_names(config.streams, config.precision)
    joined = {name: np.concatenate([item.streams[name] for item in encoded]) for name in names}
    folder, tar = _places(out, key)
    final = folder if config.format == "zarr" else tar
    partial = beside(out / SHARDS / key)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        if config.format == "zarr":
            write_zarr_shard(partial, joined)
        else:
            keys = [sample_key(position, item.track.id) for position, item in enumerate(encoded)]
            write_tar_shard(partial, keys, [item.streams for item in encoded])
        files = _digests(partial, final.relative_to(out).as_posix())
        _place(partial, final, replace=replace)
    except BaseException:
        _remove(partial)
        raise
    return Shard(
        key=key,
        num_frames=sum(item.num_frames for item in encoded),
        tracks=tuple(_cached_tracks(key, encoded)),
        files=files,
        blocks={name: block_checksums(frames) for name, frames in joined.items()},
    )


def _place(partial: Path, final: Path, *, replace: bool) -> None:
    if replace:
        if others := foreign_files(final):
            raise CacheError(
                "files that this program did not make lie in the folder of a shard that has to be made again",
                where=final, value=", ".join(others[:3]), remedy="move them away; nothing was changed",
            )  # fmt: skip
        _remove(final)
    elif final.exists():
        raise AlreadyPlacedError
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise AlreadyPlacedError from None
        raise
    sync(final.parent)


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
                level_db=item.level_db,
                peak_db=item.peak_db,
            )
        )
        first_frame += item.num_frames
    return tracks


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
