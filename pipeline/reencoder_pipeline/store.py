"""Where a cache lies: a local folder, or what fsspec reaches (s3://bucket/cache). Objects are whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from reencoder_pipeline.durable import sync, write_whole
from reencoder_pipeline.errors import CacheError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


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
        """Write only if there is nothing of this name; False if somebody else was first."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        ...

    def names(self, folder: str = "") -> Iterator[str]:
        """All objects below a folder, at any depth, in order."""
        ...

    def remove(self, name: str) -> None:
        """An object, or a folder with all that is in it; nothing happens where there is none."""
        ...

    def upload(self, local: Path, name: str) -> None:
        """A local file becomes the object `name`."""
        ...

    def download(self, name: str, local: Path) -> None:
        """An object becomes a local file, whole or not there. CacheError if there is none."""
        ...


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


def open_store(path: str | Path) -> Store:
    """A folder for a path, an object store for a URL. Nothing is touched yet.

    Credentials and endpoints are those of the environment (AWS_ENDPOINT_URL, AWS_PROFILE, ...), as of every fsspec
    program. CacheError if the URL's protocol needs a package that is not installed.
    """
    return ObjectStore(str(path)) if is_url(path) else FolderStore(Path(path))


class FolderStore:
    """A Store in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, str(folder)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        write_whole(self._place(name), content)

    def create(self, name: str, content: bytes) -> bool:
        path = self._place(name)
        beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
        beside.write_bytes(content)
        try:
            os.link(beside, path)  # fails where there is one already, also on NFS
        except FileExistsError:
            return False
        finally:
            beside.unlink(missing_ok=True)
        return True

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def names(self, folder: str = "") -> Iterator[str]:
        for path in sorted((self.folder / folder).rglob("*")):
            if path.is_file():
                yield path.relative_to(self.folder).as_posix()

    def remove(self, name: str) -> None:
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def upload(self, local: Path, name: str) -> None:
        path = self._place(name)
        beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
        shutil.copyfile(local, beside)
        sync(beside)
        beside.replace(path)
        sync(path.parent)

    def download(self, name: str, local: Path) -> None:
        if not (self.folder / name).is_file():
            raise CacheError("is missing", where=self.folder / name)
        FolderStore(local.parent).upload(self.folder / name, local.name)

    def _place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class ObjectStore:
    """A Store behind an fsspec URL. The connection is made at the first use, in each process anew."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def _open(self) -> tuple[AbstractFileSystem, str]:
        import fsspec

        try:
            return fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            remedy = "pip install 'reencoder[s3]' for s3://, or the fsspec package of that protocol"
            raise CacheError("cannot be reached", where=self.url, value=error, remedy=remedy) from None

    def read(self, name: str) -> bytes | None:
        files, root = self._open()
        try:
            return bytes(files.cat_file(f"{root}/{name}"))  # type: ignore[arg-type], text only if asked for
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        files, root = self._open()
        files.pipe_file(f"{root}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        files, root = self._open()
        try:
            files.pipe_file(f"{root}/{name}", content, mode="create")  # a conditional put (If-None-Match)
        except FileExistsError:
            return False
        return True

    def size(self, name: str) -> int | None:
        files, root = self._open()
        try:
            files.invalidate_cache()
            return int(files.info(f"{root}/{name}")["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> Iterator[str]:
        files, root = self._open()
        files.invalidate_cache()
        for path in sorted(files.find(f"{root}/{folder}".rstrip("/"))):
            yield str(path).removeprefix(f"{root}/")

    def remove(self, name: str) -> None:
        files, root = self._open()
        if files.exists(f"{root}/{name}"):
            files.rm(f"{root}/{name}", recursive=True)

    def upload(self, local: Path, name: str) -> None:
        files, root = self._open()
        files.put_file(str(local), f"{root}/{name}")

    def download(self, name: str, local: Path) -> None:
        files, root = self._open()
        local.parent.mkdir(parents=True, exist_ok=True)
        beside = local.with_name(f"{local.name}.{os.getpid()}.partial")
        try:
            files.get_file(f"{root}/{name}", str(beside))
        except FileNotFoundError:
            raise CacheError("is missing", where=f"{self.url}/{name}") from None
        sync(beside)
        beside.replace(local)
