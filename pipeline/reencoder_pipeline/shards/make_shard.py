"""Make one shard: claim, encode, write beside its place, digest, sync, rename, and commit it with a record."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from reencoder_pipeline.cache.index import Shard
from reencoder_pipeline.cache.layout import ShardFormat, claim_name, group_name, record_name, tar_name
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.encoding.encode_tracks import encode_tracks
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.shards.claims import Claim, take
from reencoder_pipeline.shards.job import Job, failure_row, is_of
from reencoder_pipeline.shards.record import (
    Record,
    read_record,
    record_bytes,
    write_record,
)
from reencoder_pipeline.shards.reused_tracks import copied_tracks, temporary_folder
from reencoder_pipeline.shards.write_shard import AlreadyPlacedError, sums_of, write_shard
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.store import Store, open_store

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


UPLOADS = 8  # files of a shard sent at a time


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
        form = ShardFormat.of(config, channels=autoencoder.spec.channels)
        known = copied_tracks(job.tracks, job.recipes, job.sources, store, form)
        copied = {item.track.id: item for item in known}
        rest = [track for track in job.tracks if track.id not in copied]
        outcomes: dict[str, EncodedTrack | Exception] = {**copied}
        outcomes |= {
            track.id: outcome for track, outcome in encode_tracks(autoencoder, rest, EncodeSettings.of(config))
        }

        encoded, recipes, failures, retry = [], [], [], False
        for track, recipe in zip(job.tracks, job.recipes, strict=True):
            outcome = outcomes[track.id]
            if isinstance(outcome, EncodedTrack):
                encoded.append(outcome)
                recipes.append(recipe)
            else:
                failures.append(failure_row(track, outcome))
                retry = retry or not isinstance(outcome, AudioError)
        sums = sums_of(job.key, encoded, form)
        try:
            shard = _deliver(job.key, encoded, store, form, claim)
        except AlreadyPlacedError:
            return None
        except OSError:
            if claim.is_held():
                raise
            return None  # whoever took over swept this one's pieces away
        record = Record(shard, sums, tuple(failures), retry, tuple(recipes), reused=len(copied))
        return _commit(record, store, claim)


def _deliver(key: str, encoded: Sequence[EncodedTrack], store: Store, form: ShardFormat, claim: Claim) -> Shard:
    """Written in place in a folder; for a URL in a temporary folder, then sent."""
    if isinstance(store, FolderStore):
        # The one way in which a shard may lie there: it was committed before and is damaged, or was never committed.
        replace = any((store.folder / name).exists() for name in (group_name(key), tar_name(key)))
        if not claim.is_held():
            raise AlreadyPlacedError
        return write_shard(key, encoded, store.folder, form, replace=replace)
    with temporary_folder() as folder:
        shard = write_shard(key, encoded, folder, form)
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
