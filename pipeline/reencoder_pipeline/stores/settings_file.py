"""Compares the settings that a place was begun with and those of a later command: one place never mixes two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import parse_json
from reencoder_pipeline.stores.own_folder import LARGEST_MARK
from reencoder_pipeline.stores.store import Store

SETTINGS = "settings.json"


def begin_with(store: Store, settings: Mapping[str, Any], *, name: str = SETTINGS) -> None:
    """Write `settings` to the file `name`, or compare them with what it holds as in `require_begun_with`.

    Example::

        begin_with(open_store("out/cache"), {"made_by": "convert", "format": "zarr"})
    """
    if require_begun_with(store, settings, name=name):
        return
    try:
        written = store.create(name, json.dumps(settings, indent=1).encode())
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise CacheError(
            "the output folder cannot be written", where=store.url, value=error.strerror,
            remedy="choose another --out folder, or check its permissions",
        ) from None  # fmt: skip
    if not written:  # another process was first
        require_begun_with(store, settings, name=name)


def require_begun_with(store: Store, settings: Mapping[str, Any], *, name: str = SETTINGS) -> bool:
    """Whether the settings file is there. CacheError, naming each difference, unless it holds exactly `settings`."""
    too_large = (store.size(name) or 0) > LARGEST_MARK
    content = None if too_large else store.read(name)
    if content is None and not too_large:
        return False
    where, values, found = f"{store.url}/{name}", None, f"over {LARGEST_MARK:,} bytes"
    if content is not None:
        try:
            values = parse_json(content, kind=CacheError, where=where, what="settings file")
            found = f"{type(values).__name__}, not an object"
        except CacheError as error:
            found = str(error.value)
    if not isinstance(values, dict):
        remedy = "delete it: what was made with other settings is recognised and never used"
        raise CacheError("the settings file is damaged", where=where, value=found, remedy=remedy)
    if changed := changes(values, json.loads(json.dumps(settings))):
        remedy = "choose another --out folder, or give the settings that it was begun with"
        raise CacheError(
            "the output folder was begun with other settings", where=store.url, value=changed, remedy=remedy
        )
    return True


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, may_change: Set[str] = frozenset()) -> str:
    """Each setting that differs, with both values; "" where none does. A setting that is not there counts as None."""
    return "; ".join(
        f"{name}: {before.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted({*before, *now} - may_change)
        if before.get(name) != now.get(name)
    )
