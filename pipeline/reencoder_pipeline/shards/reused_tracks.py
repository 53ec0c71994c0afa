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

from numpy.typing import NDArray

from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.cache.shard_frames import read_shard
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.encoded_track import MEASURED, EncodedTrack
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shards.record import Record, read_record
from reencoder_pipeline.stores.checked_reader import ObjectReader
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
    form: ShardFormat,
) -> Iterator[EncodedTrack]:
    """The tracks whose recipe is among `sources` (recipe -> key of a shard), as if they had been encoded just now.

    Files are compared with their digests. Tracks that cannot be read, or differ from their record, are left out; the
    build encodes them.
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
            arrays = read_shard(ObjectReader(store.url), record.shard, form, form.streams)
        except CacheError:  # damaged, or swept by another build that ended meanwhile
            continue
        for position, (cached, recipe) in enumerate(zip(record.shard.tracks, record.recipes, strict=True)):
            for track in wanted.pop(recipe, ()):
                if track.sha256 != cached.sha256:  # the record's recipes are not in the order of its tracks
                    continue
                yield as_encoded(track, cached, {name: tracks[position] for name, tracks in arrays.items()})


def as_encoded(track: Track, cached: CachedTrack, streams: Mapping[str, NDArray[Any]]) -> EncodedTrack:
    """A track of a cache, with its stored arrays, as if it had been encoded just now."""
    measured = {name: getattr(cached, name) for name in MEASURED}
    return EncodedTrack(track=track, streams=streams, **measured)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """On this machine, named so that `sweep_temporary_folders` knows whether its process still lives."""
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{owner()}.") as folder:
        yield Path(folder)


def sweep_temporary_folders() -> None:
    """Remove the temporary folders that killed builds of this user left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        mine = not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid()
        if mine and has_ended(folder.name.split(".")[1]):
            shutil.rmtree(folder, ignore_errors=True)  # another build may be sweeping too
