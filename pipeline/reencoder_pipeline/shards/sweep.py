"""Recognise a folder that builds write into, and remove what killed builds left there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reencoder_pipeline.cache.formats.zarr_shards import is_own_file
from reencoder_pipeline.cache.index import INDEX
from reencoder_pipeline.cache.layout import SHARDS, record_key, record_name
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shards.record import parse_record
from reencoder_pipeline.stores.atomic import FULL_DISK, scratch_owner
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.own_folder import holds, refuse_others, require_own_folder
from reencoder_pipeline.stores.store import Store, open_store
from reencoder_pipeline.stores.writer_id import has_ended

_KEY = re.compile(r"[0-9a-f]{20}")
_LOCK = re.compile(r"build\.lock|part-\d+-of-\d+\.lock")
RECORD_BEGINS = b'{"shard": '


@contextmanager
def naming_a_full_disk(where: object) -> Iterator[None]:
    """Around everything that writes: CacheError instead of a bare OSError when there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        remedy = "make room and run the same command again: finished shards are kept"
        raise CacheError(
            "the disk is full", where=error.filename or where, value=error.strerror, remedy=remedy
        ) from None


def require_own_place(store: Store) -> None:
    """ConfigError, naming what is in the way, unless a build may write here: the place is empty, or a build's already.

    A build writes its settings first. Before that, only its lock and scratch files lie there. Where the settings were
    lost, the index or a sound commit record proves as much.
    """
    marks = {"settings.json": ("autoencoder", "weights"), INDEX: ("format", "storage", "spec", "shards")}
    if isinstance(store, FolderStore):
        shards = store.folder / SHARDS
        inside = [path.name for path in shards.iterdir()] if shards.is_dir() else [] if not shards.exists() else ["?"]
        if not _has_records(store, inside):
            require_own_folder(store.folder, marks=marks, leftovers=lambda name: _is_leftover(name, inside))
        return
    # Asked for by name first: a listing is given much longer before it counts as not answered.
    present = [name for name in marks if store.size(name) is not None]
    if any(holds(store.read(name) or b"", name, marks[name]) for name in present):
        return
    names = list(store.sizes())
    inside = [name.split("/")[1] for name in names if name.startswith(f"{SHARDS}/")]
    if _has_records(store, inside):
        return
    refuse_others(
        sorted({name.split("/")[0] for name in names}),
        where=store.url, marks=marks, leftovers=lambda name: _is_leftover(name, inside),
    )  # fmt: skip


def _has_records(store: Store, inside: Iterable[str]) -> bool:
    """Whether one of these entries of SHARDS is a commit record: it holds its own digest, and its key is its name."""
    keys = [key for key in (record_key(f"{SHARDS}/{entry}") for entry in inside) if key and _KEY.fullmatch(key)]
    records = ((key, parse_record(store.read(record_name(key)))) for key in keys)
    return any(record is not None and record.shard.key == key for key, record in records)


def _is_leftover(name: str, inside: Iterable[str]) -> bool:
    """Whether a build that was killed before it wrote its settings left it: `inside` are the entries of SHARDS."""
    return _LOCK.fullmatch(name) is not None or (name == SHARDS and all(map(scratch_owner, inside)))


def _key_of(entry: str, known: Container[str] = ()) -> str | None:
    """The key of the shard whose folder, tar or commit record has this name within SHARDS; None for other names.

    Keys have 20 hex digits; those of a converted cache, which are `known`, have the names that its source gave them.
    """
    key, dot, suffix = entry.partition(".")
    return key if dot + suffix in ("", ".tar", ".json") and (_KEY.fullmatch(key) or key in known) else None


def sweep(
    out: Path | str | Store, planned: Container[str] = (), *, finished: bool = False, known: Container[str] = ()
) -> dict[str, int]:
    """Remove the unfinished pieces of shards that are not `planned`, and, with `finished`, also finished shards that
    are not (their tracks left the corpus). A planned shard is left alone: a part of the build may be making it.

    Only what has a name of ours goes: a key has 20 hex digits, or is one of `known`. All else stays, also within the
    folder of a shard, which then stays too. Returns the sizes of all that was there, from one listing.
    """
    store = open_store(out)
    sizes = store.sizes()
    pieces: dict[str, set[str]] = defaultdict(set)
    foreign: set[str] = set()
    for name in sizes:
        folder, _, rest = name.partition("/")
        entry, _, inside = rest.partition("/")
        key = _key_of(entry, known) if folder == SHARDS else None
        if (writer := scratch_owner(name)) and has_ended(writer):
            store.remove(name)
        elif key is not None and (is_own_file(inside) if entry == key else not inside):
            pieces[key].add(f"{SHARDS}/{entry}")
        elif key is not None:
            foreign.add(key)
    for key, names in pieces.items():
        record = record_name(key)
        if key not in planned and key not in foreign and (finished or record not in names):
            for name in (record, *(names - {record})):  # the record first: a shard without its record is not there
                store.remove(name)
    store.sweep(has_ended)
    return sizes
