"""The output folder of a conversion, an import or an export: empty, or begun by the same command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.layout import SHARDS
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import read_json
from reencoder_pipeline.stores.atomic import scratch_owner, write_text
from reencoder_pipeline.stores.own_folder import LOCK
from reencoder_pipeline.stores.store import is_url
from reencoder_pipeline.tasks import StreamName


def require_known_streams(cache: LatentCache) -> None:
    """CacheError if a name in the index is not a stream's: it becomes the name of a folder."""
    if unknown := [name for name in cache.streams if name not in get_args(StreamName)]:
        raise CacheError("the index names unknown streams", where=cache.origin, value=", ".join(map(repr, unknown)))


def local_folder(out: str) -> Path:
    """CacheError if it is a URL: as a path, it would be a folder of that name."""
    if is_url(out):
        remedy = "write into a folder, and copy that"
        raise CacheError("only a build writes to a URL", where="--out", value=out, remedy=remedy)
    return Path(out)


def require_same(file: Path, description: Mapping[str, Any]) -> None:
    """CacheError if the folder of `file` holds something else than what is asked for; nothing is written.

    `file` is where the description stands of what was begun there. A folder without it must be empty.
    """
    folder, description = file.parent, json.loads(json.dumps(description))
    remedy = "choose another --out folder"
    if folder.exists() and not folder.is_dir():
        raise CacheError("is not a folder", where=folder, remedy=remedy)
    if file.is_file():
        before = read_json(file, kind=CacheError, what="description of what was begun here")
        if not isinstance(before, dict):
            raise CacheError("is damaged", where=file, value=type(before).__name__, remedy="delete this file")
        changed = [
            f"{name}: {before.get(name)!r} then, {description.get(name)!r} now"
            for name in [*description, *(name for name in before if name not in description)]
            if before.get(name) != description.get(name)
        ]
        if changed:
            raise CacheError("something else was begun here", where=folder, value="; ".join(changed), remedy=remedy)
    elif folder.is_dir():
        own = (LOCK, SHARDS)
        entries = [*folder.iterdir(), *(folder / SHARDS).glob("*")]
        if others := sorted(e.name for e in entries if e.name not in own and scratch_owner(e.name) is None):
            raise CacheError("is not empty", where=folder, value=", ".join(others[:3]), remedy=remedy)


def begin(file: Path, description: Mapping[str, Any]) -> None:
    """require_same, and the description written down for the next time."""
    require_same(file, description)
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(description, indent=1))
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise CacheError(
                "cannot write here", where=file.parent, value=error.strerror, remedy="choose another --out folder"
            ) from None
