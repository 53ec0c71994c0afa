"""ObjectStore: a Store behind a URL, by fsspec, with retries where the network fails and a limit to every wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.atomic import replacing
from reencoder_pipeline.stores.retry import persistent

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


REQUEST_SECONDS, LONG_SECONDS = 60.0, 600.0  # an attempt at a small request; at a listing, or one of unknown size
SLOWEST = 100_000  # bytes a second, for which an attempt at sending or fetching is given more time

Result = TypeVar("Result")


class ObjectStore:
    """A Store behind an fsspec URL. Each process connects at its first use.

    Refused, slow and cut connections are tried again, then a CacheError says what could not be done. Only s3:// and
    gs:// create exclusively; behind another protocol a second build is not noticed, and makes the same shards again.
    """

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
        get = _within(files, "cat_file", LONG_SECONDS)
        try:
            return bytes(self._try(name, lambda: get(f"{root}/{name}")))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        files, root = self._open()
        put = _within(files, "pipe_file", _seconds(len(content)))
        self._put(name, lambda: put(f"{root}/{name}", content))

    def create(self, name: str, content: bytes) -> bool:
        files, root = self._open()
        put = _within(files, "pipe_file", _seconds(len(content)))
        try:  # a conditional put (If-None-Match)
            self._put(name, lambda: put(f"{root}/{name}", content, mode="create"))
        except FileExistsError:
            return self.read(name) == content
        return True

    def size(self, name: str) -> int | None:
        files, root = self._open()
        files.invalidate_cache()
        info = _within(files, "info", REQUEST_SECONDS)
        try:
            return int(self._try(name, lambda: info(f"{root}/{name}"))["size"])
        except FileNotFoundError:
            return None

    def sizes(self, folder: str = "") -> dict[str, int]:
        files, root = self._open()
        files.invalidate_cache()
        find = _within(files, "find", LONG_SECONDS)
        try:
            found = self._try(folder, lambda: find(f"{root}/{folder}".rstrip("/"), detail=True))
        except FileNotFoundError:
            return {}
        return {path.removeprefix(f"{root}/"): int(found[path]["size"]) for path in sorted(found)}

    def names(self, folder: str = "") -> Iterator[str]:
        yield from self.sizes(folder)

    def remove(self, name: str) -> None:
        files, root = self._open()
        files.invalidate_cache()
        exists, remove = _within(files, "exists", REQUEST_SECONDS), _within(files, "rm", LONG_SECONDS)
        with suppress(FileNotFoundError):  # another process removed it meanwhile
            if self._try(name, lambda: exists(f"{root}/{name}")):
                self._try(name, lambda: remove(f"{root}/{name}", recursive=True))

    def sweep(self, has_ended: Callable[[str], bool]) -> None:
        """Nothing to do: an object appears when all of it was sent."""

    def upload(self, local: Path, name: str) -> None:
        files, root = self._open()
        put = _within(files, "put_file", _seconds(local.stat().st_size))
        self._put(name, lambda: put(str(local), f"{root}/{name}"))

    def download(self, name: str, local: Path) -> None:
        files, root = self._open()
        local.parent.mkdir(parents=True, exist_ok=True)
        size = self.size(name)
        if size is None:
            raise _missing(f"{self.url}/{name}")
        get = _within(files, "get_file", _seconds(size))
        try:
            with replacing(local) as scratch:
                self._try(name, lambda: get(f"{root}/{name}", str(scratch)))
        except FileNotFoundError:
            raise _missing(f"{self.url}/{name}") from None

    def _put(self, name: str, request: Callable[[], object]) -> None:
        try:
            self._try(name, request)
        except FileNotFoundError as error:
            remedy = "create the bucket first"
            raise CacheError("cannot write here", where=self.url, value=error, remedy=remedy) from None

    def _try(self, name: str, request: Callable[[], Result]) -> Result:
        return persistent(request, where=f"{self.url}/{name}".rstrip("/"))


def _within(files: AbstractFileSystem, method: str, seconds: float) -> Callable[..., Any]:
    """A method of a file system that gives up after some time, whatever is waited for: s3fs waits for ever on a server
    that accepts a connection and never answers. Only asynchronous file systems (s3, gs, az, http) have such a limit."""
    from fsspec import asyn

    if not isinstance(files, asyn.AsyncFileSystem):
        return getattr(files, method)
    return partial(asyn.sync, files.loop, getattr(files, f"_{method}"), timeout=seconds)


def _missing(where: str) -> CacheError:
    return CacheError("an object is missing", where=where, remedy="copy or build the cache again, whole")


def _seconds(size: int) -> float:
    return REQUEST_SECONDS + size / SLOWEST
