"""Opens a cache in a folder or behind a URL: reads and checks its index, and finds its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reencoder_pipeline.cache.index import FORMAT, INDEX
from reencoder_pipeline.cache.index_schema import require_index
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.mapped_shards import REBUILD, Fetch
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.progress import Progress
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.store import is_url, open_store

AGAIN = "run the same `reencoder-cache build` again: it goes on where it stopped"


def open_cache(
    place: Path | str,
    *,
    checked: bool = False,
    local_folder: Path | None = None,
    local_gigabytes: float | None = None,
    progress: Progress | None = None,
) -> LatentCache:
    """Read the index of a cache in a folder or behind a URL (s3://bucket/cache). CacheError if it is not complete.

    In a folder, every file that the index names must be there in full size. From a URL, files are copied below
    `local_folder` (default: the user's cache directory) when a stream of theirs is first used, and their digests are
    checked. Copies that would take more than `local_gigabytes` are refused. `progress` is called with bytes.

    `checked`: every block of 1,024 frames is compared with its checksum at its first gather, so that no flipped bit
    gets through. A CacheError then names the frames.

    Example::

        cache = open_cache("out/demo/cache")
        frames = cache.read(cache.tracks[0], "mono")  # (frames, channels)
    """
    place = str(place).removeprefix("file://")
    if is_url(place):
        from reencoder_pipeline.cache.local_copy import LocalCopy

        limit = None if local_gigabytes is None else round(local_gigabytes * 1e9)
        index, url = _read_index(place), place.rstrip("/")
        copy = LocalCopy(url, canonical_digest(index), root=local_folder, limit=limit, progress=progress)
        return _described(copy.folder, index, place=url, fetch=copy.fetch, checked=checked)
    path = Path(place)
    cache = _described(path, _read_index(path), place=str(path), checked=checked)
    for shard in cache.shards:
        for name, (size, _) in shard.files.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                found = f"{file.stat().st_size} bytes instead of {size}" if file.is_file() else "missing"
                raise CacheError("a shard is damaged", where=file, value=found, remedy=REBUILD)
    return cache


def open_index(place: Path | str) -> LatentCache:
    """Read the index only; in a folder, the data may be damaged or gone."""
    if is_url(place):
        return open_cache(place)
    return _described(Path(place), _read_index(place), place=str(place))


def _read_index(place: Path | str) -> dict[str, Any]:
    """The index of a finished cache, its own digest checked and taken out."""
    store, where = open_store(place), f"{str(place).rstrip('/')}/{INDEX}"
    try:
        content = store.read(INDEX)
    except OSError as error:
        remedy = "check the permissions and the disk"
        raise CacheError("the index cannot be read", where=where, value=error, remedy=remedy) from None
    if content is None:
        begun = store.size("settings.json") is not None
        raise CacheError(
            "the latent cache is not complete" if begun else "no latent cache here",
            where=place,
            remedy=AGAIN if begun else f"give the folder that a build has written: it holds {INDEX}",
        )
    try:
        index = json.loads(content)
        if index.get("format") != FORMAT:
            raise CacheError(
                "the cache is of another format", where=where, value=index.get("format"),
                remedy=f"build it again: this program reads {FORMAT}",
            )  # fmt: skip
        promised = index.pop("digest", None)
        found = canonical_digest(index)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError("the index is damaged", where=where, value=repr(error)[:200], remedy=AGAIN) from None
    if promised not in (None, found):
        value = f"its digest is {found}, not {promised}"
        raise CacheError("the index is damaged", where=where, value=value, remedy=AGAIN)
    return index


def _described(
    path: Path, index: dict[str, Any], *, place: str, fetch: Fetch | None = None, checked: bool = False
) -> LatentCache:
    try:
        require_index(index, where=f"{place}/{INDEX}", remedy=AGAIN)
        return LatentCache(path, index, origin=place, fetch=fetch, checked=checked)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError("the index is damaged", where=f"{place}/{INDEX}", value=repr(error), remedy=AGAIN) from None
