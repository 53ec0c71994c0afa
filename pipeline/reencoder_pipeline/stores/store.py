"""Store: named bytes in a local folder or behind a URL (s3://bucket/cache), each whole or not there."""

from __future__ import annotations

from pathlib import Path

from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.object_store import ObjectStore

Store = FolderStore | ObjectStore
"""Names are relative, with slashes. Stores can be pickled: other processes use them too."""


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


def open_store(path: str | Path | Store) -> Store:
    """A folder for a path, an object store for a URL, a store itself as it is. Nothing is touched yet.

    Credentials and endpoints are those of the environment (AWS_ENDPOINT_URL, AWS_PROFILE, ...), as of every fsspec
    program. CacheError, at the first use, if the URL's protocol needs a package that is not installed.
    """
    if not isinstance(path, str | Path):
        return path
    if str(path).startswith("file://"):
        return FolderStore(Path(str(path).removeprefix("file://")))
    if not is_url(path):
        return FolderStore(Path(path))
    return ObjectStore(str(path))
