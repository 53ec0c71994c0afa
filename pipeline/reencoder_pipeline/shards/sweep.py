"""Complete or absent: commit records, and sweeping away what a killed build left behind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reencoder_pipeline.cache.formats.zarr_shards import is_own_file
from reencoder_pipeline.cache.index import INDEX
from reencoder_pipeline.cache.layout import SHARDS, claim_name, record_name
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.shards.claims import LEASE, Watch, take
from reencoder_pipeline.shards.record import parse_record_bytes
from reencoder_pipeline.stores.atomic import FULL_DISK, scratch_owner
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.own_folder import holds, refuse_others, require_own_folder
from reencoder_pipeline.stores.store import Store, open_store

_KEY = re.compile(r"[0-9a-f]{20}")
_PARTS = ("", ".tar", ".json", ".claim")  # what of a shard lies in SHARDS, behind its key
_CLAIM = re.compile(r"[0-9a-f]{20}\.claim")
_BUILDER = re.compile(r"[0-9a-f]{16}\.builder")
BUILDER = ".builder"  # the claim of a build as a whole: nobody is kept out by it, it says who is at work
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

    A build writes its settings first. Before that, only its claim and scratch files lie there. Where the settings were
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
    keys = (entry.removesuffix(".json") for entry in inside if entry.endswith(".json"))
    records = ((key, parse_record_bytes(store.read(record_name(key)))) for key in keys if _KEY.fullmatch(key))
    return any(record is not None and record.shard.key == key for key, record in records)


def _is_leftover(name: str, inside: Iterable[str]) -> bool:
    """Whether a build that was killed before it wrote its settings left it: `inside` are the entries of SHARDS."""
    own = all(_CLAIM.fullmatch(entry) or scratch_owner(entry) is not None for entry in inside)
    return is_builder(name) or (name == SHARDS and own)


def is_builder(name: str) -> bool:
    """Whether this is the name of a build's claim."""
    return _BUILDER.fullmatch(name) is not None


def _key_of(entry: str, known: Container[str] = ()) -> str | None:
    """The key of the shard that an entry of SHARDS belongs to; None if it is nobody's of ours. Keys have 20 hex digits,
    but those of a converted cache, which are `known`, have the names that its source gave them."""
    key, dot, suffix = entry.partition(".")
    return key if dot + suffix in _PARTS and (_KEY.fullmatch(key) or key in known) else None


def sweep(
    out: Path | str | Store,
    keep: set[str] | None = None,
    *,
    watch: Watch | None = None,
    known: Container[str] = (),
) -> dict[str, int]:
    """Remove unfinished pieces; with `keep`, also finished shards of other keys (tracks that left the corpus).

    Only what has a name of ours goes: a key has 20 hex digits, or is one of `known`. All else stays, also within the
    folder of a shard, which then stays too.

    What belongs to a shard is removed by the holder of its claim only, so nothing that another living build writes.
    Returns the sizes of all that was there, from one listing.
    """
    store = open_store(out)
    watch = watch or Watch(store)
    sizes = store.sizes()
    pieces: dict[str, set[str]] = defaultdict(set)
    foreign: set[str] = set()
    for name in sizes:
        folder, _, rest = name.partition("/")
        entry, _, inside = rest.partition("/")
        key = _key_of(entry, known) if folder == SHARDS else None
        if key is not None and (is_own_file(inside) if entry == key else not inside):
            pieces[key].add(f"{SHARDS}/{entry}")
        elif key is not None:
            foreign.add(key)
        elif is_builder(name):
            watch.is_free(name)
    for key, names in pieces.items():
        if key in foreign:
            continue
        free = claim_name(key) not in names or watch.is_free(claim_name(key))
        if free and (record_name(key) not in names or (keep is not None and key not in keep)):
            _remove_shard(store, key, names, finished=record_name(key) in names)
    store.sweep(watch.has_ended)
    return sizes


def _remove_shard(store: Store, key: str, names: set[str], *, finished: bool) -> None:
    claim = take(store, claim_name(key), lease=LEASE)
    if claim is None:
        return
    with claim:
        if not finished and store.size(record_name(key)) is not None:  # committed since it was listed
            return
        store.remove(record_name(key))  # first: a shard without its record is not there
        for name in names - {claim_name(key), record_name(key)}:
            store.remove(name)
