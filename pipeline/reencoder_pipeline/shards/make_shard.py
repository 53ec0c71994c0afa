"""Make one shard: encode its tracks, write it beside its place, digest, sync, rename, and commit it with a record."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from reencoder_pipeline.cache.index import Shard
from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.encoding.encode_tracks import encode_tracks
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.job import Job, failure_row, is_made_of
from reencoder_pipeline.shards.record import Record, read_record, record_digest, write_record
from reencoder_pipeline.shards.reused_tracks import copied_tracks, temporary_folder
from reencoder_pipeline.shards.write_shard import sums_of, write_shard
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.store import Store, open_store

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


UPLOADS = 8  # files of a shard sent at a time


def build_shard(
    job: Job, autoencoder: Autoencoder, out: Path | str | Store, *, settings: EncodeSettings, form: ShardFormat
) -> Record:
    """Encode and commit a shard. The record names each file that failed; nothing takes the place of such a file.
    Tracks that `job.sources` name are copied.

    A shard that another process has committed meanwhile is kept; two processes that make one shard write the same
    bytes under the same names.
    """
    store, spec = open_store(out), autoencoder.spec
    there = _committed(job, store, form, spec)
    if there is not None:
        return there
    known = copied_tracks(job.tracks, job.recipes, job.sources, store, form)
    copied = {item.track.id: item for item in known}
    rest = [track for track in job.tracks if track.id not in copied]
    outcomes: dict[str, EncodedTrack | Exception] = {**copied}
    outcomes |= {track.id: outcome for track, outcome in encode_tracks(autoencoder, rest, settings)}

    encoded, recipes, failures, retry = [], [], [], False
    for track, recipe in zip(job.tracks, job.recipes, strict=True):
        outcome = outcomes[track.id]
        if isinstance(outcome, EncodedTrack):
            encoded.append(outcome)
            recipes.append(recipe)
        else:
            failures.append(failure_row(track.id, track.path, outcome))
            retry = retry or not isinstance(outcome, AudioError)
    sums = sums_of(job.key, encoded, form)
    there = _committed(job, store, form, spec)
    if there is not None:
        return there
    shard = _deliver(job.key, encoded, store, form)
    record = Record(shard, sums, tuple(failures), retry, tuple(recipes), reused=len(copied))
    write_record(store, record)
    return record


def _committed(job: Job, store: Store, form: ShardFormat, spec: LatentSpec) -> Record | None:
    """The record of this shard, where another process has committed it since the job was planned."""
    there = read_record(store, job.key)
    if there is None or not is_made_of(job, there, form, spec) or record_digest(there) == job.replaces:
        return None
    return there


def _deliver(key: str, encoded: Sequence[EncodedTrack], store: Store, form: ShardFormat) -> Shard:
    """Written in place in a folder; for a URL in a temporary folder, then sent."""
    if isinstance(store, FolderStore):
        return write_shard(key, encoded, store.folder, form)
    with temporary_folder() as folder:
        shard = write_shard(key, encoded, folder, form)
        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(lambda name: store.upload(folder / name, name), shard.files))
    return shard
