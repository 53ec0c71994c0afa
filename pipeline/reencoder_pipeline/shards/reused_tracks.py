"""Tracks that committed shards hold already: found by what they are made of, read back, and checked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.int8 import is_scale, stored_names
from reencoder_pipeline.cache.formats.tar_shards import promised_members, read_tar_stream
from reencoder_pipeline.cache.formats.zarr_shards import data_file, read_zarr_stream
from reencoder_pipeline.cache.index import Shard
from reencoder_pipeline.cache.layout import SHARDS
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shards.record import Record, read_record
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.store import Store
from reencoder_pipeline.stores.writer_id import has_ended, owner

TEMPORARY = "reencoder-build."  # folders for shards on their way to or from a URL


def places(records: Iterable[Record]) -> dict[str, str]:
    """recipe -> key of a shard that holds what is made by it."""
    return {recipe: record.shard.key for record in records for recipe in record.recipes}


def copied_tracks(
    tracks: Sequence[Track],
    recipes: Sequence[str],
    sources: Mapping[str, str],
    store: Store,
    config: CacheConfig,
    *,
    channels: int,
) -> Iterator[EncodedTrack]:
    """The tracks whose recipe is among `sources` (recipe -> key of a shard), as if they had been encoded just now.

    Every block of frames is checked. What cannot be read, or is not what its record says, is left out: it is encoded.
    """
    wanted: dict[str, list[Track]] = defaultdict(list)
    for track, recipe in zip(tracks, recipes, strict=True):
        if recipe in sources:
            wanted[recipe].append(track)
    for key in sorted({sources[recipe] for recipe in wanted}):
        record = read_record(store, key)
        if record is None:
            continue
        try:
            streams = read_shard(store, record.shard, config, channels=channels)
        except (CacheError, FileNotFoundError):  # damaged, or swept by another build that ended meanwhile
            continue
        for position, (cached, recipe) in enumerate(zip(record.shard.tracks, record.recipes, strict=True)):
            for track in wanted.pop(recipe, ()):
                if track.sha256 != cached.sha256:  # the record's recipes are not in the order of its tracks
                    continue
                frames = slice(cached.first_frame, cached.first_frame + cached.num_frames)
                yield EncodedTrack(
                    track=track,
                    num_samples=cached.num_samples,
                    num_frames=cached.num_frames,
                    tasks=cached.tasks,
                    bandwidth_hz=cached.bandwidth_hz,
                    side_mid_db=cached.side_mid_db,
                    level_db=cached.level_db,
                    peak_db=cached.peak_db,
                    streams={
                        name: joined[position : position + 1] if is_scale(name) else joined[frames]
                        for name, joined in streams.items()
                    },
                )


def read_shard(store: Store, shard: Shard, config: CacheConfig, *, channels: int) -> dict[str, NDArray[Any]]:
    """stream -> (frames, channels), every block checked against its crc32c. CacheError if anything is wrong."""
    if isinstance(store, FolderStore):
        return _read(store.folder, shard, config, channels)
    with temporary_folder() as folder:
        for name in shard.files:
            store.download(name, folder / name)
        return _read(folder, shard, config, channels)


def _read(folder: Path, shard: Shard, config: CacheConfig, channels: int) -> dict[str, NDArray[Any]]:
    streams = dict(
        stored_arrays(
            folder, shard, config.streams, storage=config.format, precision=config.precision, channels=channels
        )
    )
    for name, frames in streams.items():
        if block_checksums(frames) != shard.blocks.get(name):
            value, remedy = f"the frames of {name} have changed", "build again: they are encoded again"
            raise CacheError("a shard is damaged", where=folder / SHARDS / shard.key, value=value, remedy=remedy)
    return streams


def stored_arrays(
    folder: Path,
    shard: Shard,
    streams: Sequence[str],
    *,
    storage: str,
    precision: str,
    channels: int,
    file: Path | None = None,
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and content of the arrays of a shard below `folder`; with `file`, only of those that lie in it. CacheError
    where a file is not as the shard is described."""
    names, dtype = stored_names(streams, precision), np.dtype(precision)
    if storage == "webdataset":
        tracks = [(track.id, track.num_frames) for track in shard.tracks]
        promised = promised_members(tracks, names, channels=channels, dtype=dtype)
        tar = folder / SHARDS / f"{shard.key}.tar"
        yield from ((name, read_tar_stream(tar, promised, name)) for name in names)
        return
    group = folder / SHARDS / shard.key
    for name in names:
        if file is None or file == data_file(group, name):
            rows = len(shard.tracks) if is_scale(name) else shard.num_frames
            its_dtype = np.dtype(np.float32) if is_scale(name) else dtype
            yield name, read_zarr_stream(group, name, rows=rows, channels=channels, dtype=its_dtype)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """On this machine, named so that `sweep_temporary_folders` knows whether its process still lives."""
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{owner()}.") as folder:
        yield Path(folder)


def sweep_temporary_folders() -> None:
    """Those that killed builds of this user left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        mine = not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid()
        if mine and has_ended(folder.name.split(".")[1]):
            shutil.rmtree(folder, ignore_errors=True)  # another build may be sweeping too
