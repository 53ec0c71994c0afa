"""Begins or resumes the output folder of a conversion, an import or an export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reencoder_pipeline.cache.layout import SHARDS
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.atomic import scratch_owner
from reencoder_pipeline.stores.own_folder import require_own_folder
from reencoder_pipeline.stores.settings_file import SETTINGS, begin_with, require_begun_with
from reencoder_pipeline.stores.store import is_url, open_store


def local_folder(out: str) -> Path:
    """`out` as a path. CacheError if it is a URL, which would become a folder of that name."""
    if is_url(out):
        remedy = "write into a folder, and copy it"
        raise CacheError("only a build writes to a URL", where="--out", value=out, remedy=remedy)
    return Path(out)


def require_output_folder(folder: Path, settings: Mapping[str, Any], *, name: str = SETTINGS) -> None:
    """CacheError or ConfigError unless `folder` is empty, or the same command with the same `settings` has begun there.

    Nothing is written.
    """
    if not require_begun_with(open_store(folder), settings, name=name):
        require_own_folder(folder, marks={name: ()}, leftovers=lambda entry: entry == SHARDS and _is_scratch(folder))


def _is_scratch(folder: Path) -> bool:
    return all(scratch_owner(path.name) is not None for path in (folder / SHARDS).glob("*"))


def begin(folder: Path, settings: Mapping[str, Any], *, name: str = SETTINGS) -> None:
    """`require_output_folder`, and the settings are written to the file `name`, for the next time."""
    require_output_folder(folder, settings, name=name)
    begin_with(open_store(folder), settings, name=name)
