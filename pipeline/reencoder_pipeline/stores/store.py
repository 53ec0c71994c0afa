"""Store: named bytes in a local folder or behind a URL (s3://bucket/cache), each whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from reencoder_pipeline.stores.folder_store import FolderStore


class Store(Protocol):
    """Named bytes. Names are relative, with slashes. Stores can be pickled: other processes use them too."""

    url: str

    def read(self, name: str) -> bytes | None:
        """None if there is nothing of this name."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Afterwards the object is the old one or the new one, never a part."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write only if there is nothing of this name; False if there is something else. The same content counts as
        written: the answer to an earlier attempt may have been lost."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        ...

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of all objects below a folder, at any depth, in order of their names."""
        ...

    def remove(self, name: str) -> None:
        """An object, or a folder with all that is in it; nothing happens where there is none."""
        ...

    def sweep(self, has_ended: Callable[[str], bool]) -> None:
        """Remove what is half-written and never will be whole: its writer, an `writer_id.owner()`, has ended."""
        ...

    def upload(self, local: Path, name: str) -> None:
        """A local file becomes the object `name`."""
        ...

    def download(self, name: str, local: Path) -> None:
        """An object becomes a local file, whole or not there. CacheError if there is none."""
        ...


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
    from reencoder_pipeline.stores.object_store import ObjectStore

    return ObjectStore(str(path))
