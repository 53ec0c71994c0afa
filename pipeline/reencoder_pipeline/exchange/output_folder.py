"""Begins or resumes the output folder of a conversion, an import or an export."""

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
    """Raise a CacheError if the index names an unknown stream: the name would become a folder's."""
    if unknown := [name for name in cache.streams if name not in get_args(StreamName)]:
        value, remedy = ", ".join(map(repr, unknown)), "restore index.json, or build the cache again"
        raise CacheError("the index names unknown streams", where=cache.origin, value=value, remedy=remedy)


def local_folder(out: str) -> Path:
    """`out` as a path. CacheError if it is a URL, which would become a folder of that name."""
    if is_url(out):
        remedy = "write into a folder, and copy it"
        raise CacheError("only a build writes to a URL", where="--out", value=out, remedy=remedy)
    return Path(out)


def require_same(file: Path, description: Mapping[str, Any]) -> None:
    """Raise a CacheError if the folder of `file` holds the output of another command. Nothing is written.

    `file` holds the description of that command. A folder without it must be empty.
    """
    folder, description = file.parent, json.loads(json.dumps(description))
    remedy = "choose another --out folder"
    if folder.exists() and not folder.is_dir():
        raise CacheError("the output path is not a folder", where=folder, remedy=remedy)
    if file.is_file():
        before = read_json(file, kind=CacheError, what="description of this folder")
        if not isinstance(before, dict):
            what, found = "the description of this folder is damaged", type(before).__name__
            raise CacheError(what, where=file, value=found, remedy="delete this file")
        changed = [
            f"{name}: {before.get(name)!r} then, {description.get(name)!r} now"
            for name in [*description, *(name for name in before if name not in description)]
            if before.get(name) != description.get(name)
        ]
        if changed:
            what = "this folder holds the output of another command"
            raise CacheError(what, where=folder, value="; ".join(changed), remedy=remedy)
    elif folder.is_dir():
        own = (LOCK, SHARDS)
        entries = [*folder.iterdir(), *(folder / SHARDS).glob("*")]
        if others := sorted(e.name for e in entries if e.name not in own and scratch_owner(e.name) is None):
            what = "the output folder is not empty"
            raise CacheError(what, where=folder, value=", ".join(others[:3]), remedy=remedy)


def begin(file: Path, description: Mapping[str, Any]) -> None:
    """`require_same`, then write the description for the next call."""
    require_same(file, description)
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(description, indent=1))
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            what, remedy = "the output folder cannot be written to", "choose another --out folder"
            raise CacheError(what, where=file.parent, value=error.strerror, remedy=remedy) from None
