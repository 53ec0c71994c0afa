"""The lock of a build, or of one part of a build: a second one into the same place is refused."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from reencoder_pipeline.build.parts import Part
from reencoder_pipeline.errors import CacheError, ConfigError, in_one_line
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.own_folder import LOCK, folder_lock
from reencoder_pipeline.stores.store import Store
from reencoder_pipeline.stores.writer_id import has_ended, owner

LOCK_OBJECT = "build.lock"  # behind a URL
_PART_LOCK = re.compile(r"part-\d+-of-\d+\.lock")
_held = set[str]()  # tokens of the objects that this process holds


def build_lock(store: Store, part: Part | None) -> AbstractContextManager[None]:
    """Hold the lock of the place where a build writes, or that of a part. ConfigError, naming the process that holds
    it, where the same is running already. Writing the lock also shows at once that a place cannot be reached."""
    if part is None:
        return _lock(store, LOCK if isinstance(store, FolderStore) else LOCK_OBJECT, what="a build")
    return _lock(store, f"part-{part.number}-of-{part.count}.lock", what=f"part {part} of a build")


def remove_ended_locks(store: Store, names: Iterable[str]) -> None:
    """Remove the locks of parts, among `names`, whose process is known to have ended."""
    for name in names:
        if _PART_LOCK.fullmatch(name):
            with suppress(ConfigError), _lock(store, name, what="a part of a build"):
                pass


def _lock(store: Store, name: str, *, what: str) -> AbstractContextManager[None]:
    if isinstance(store, FolderStore):
        return folder_lock(store.folder, what=what, name=name)
    return _object_lock(store, name, what=what)


@contextmanager
def _object_lock(store: Store, name: str, *, what: str) -> Iterator[None]:
    """An object that is created once. No kernel frees it when its process is killed: it is taken over where that
    process ran on this machine and has ended, and otherwise a person has to decide."""
    token = secrets.token_hex(8)
    holder = {"host": socket.gethostname(), "process": os.getpid(), "writer": owner(), "token": token}
    mine = json.dumps({**holder, "since": datetime.now(UTC).isoformat(timespec="seconds")}).encode()
    while not store.create(name, mine):
        content = store.read(name)
        if content is None:  # its holder has just ended
            continue
        values = _parsed(content)
        if not _has_ended(values):
            raise ConfigError(
                f"{what} is running here",
                where=store.url,
                value=_named(values),
                remedy=f"wait for it, or choose another --out; if that process has ended, delete {store.url}/{name}",
            )
        if store.read(name) == content:
            store.remove(name)
    _held.add(token)
    try:
        yield
    finally:
        _held.discard(token)
        with suppress(OSError, CacheError):  # then the next build on this machine takes it over
            if store.read(name) == mine:
                store.remove(name)


def _named(holder: dict[str, Any]) -> str:
    if not {"process", "host", "since"} <= holder.keys():
        return "a process that does not say its name"
    return in_one_line(f"process {holder['process']} on {holder['host']}, since {holder['since']}")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the process has ended, or is this one, which could not remove the lock of an earlier build."""
    writer = str(holder.get("writer"))
    return has_ended(writer) or (writer == owner() and holder.get("token") not in _held)
