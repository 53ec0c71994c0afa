"""ObjectStore: a Store behind a URL, by fsspec, with retries where the network fails and a limit to every wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.atomic import replacing
from reencoder_pipeline.stores.retry import persistent

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


REQUEST_SECONDS, LONG_SECONDS = 60.0, 600.0  # an attempt at a small request; at a listing, or one of unknown size
SLOWEST = 100_000  # bytes a second, for which an attempt at sending or fetching is given more time


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
        try:
            return bytes(self._request("cat_file", name, seconds=LONG_SECONDS))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        with self._writing():
            self._request("pipe_file", name, content, seconds=_seconds(len(content)))

    def create(self, name: str, content: bytes) -> bool:
        try:  # a conditional put (If-None-Match)
            with self._writing():
                self._request("pipe_file", name, content, seconds=_seconds(len(content)), mode="create")
        except FileExistsError:
            return self.read(name) == content
        return True

    def size(self, name: str) -> int | None:
        try:
            return int(self._request("info", name, seconds=REQUEST_SECONDS)["size"])
        except FileNotFoundError:
            return None

    def sizes(self, folder: str = "") -> dict[str, int]:
        try:
            found = self._request("find", folder, seconds=LONG_SECONDS, detail=True)
        except FileNotFoundError:
            return {}
        _, root = self._open()
        return {path.removeprefix(f"{root}/"): int(found[path]["size"]) for path in sorted(found)}

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):  # another process removed it meanwhile
            if self._request("exists", name, seconds=REQUEST_SECONDS):
                self._request("rm", name, seconds=LONG_SECONDS, recursive=True)

    def sweep(self, has_ended: Callable[[str], bool]) -> None:
        """Nothing to do: an object appears when all of it was sent."""

    def upload(self, local: Path, name: str) -> None:
        with self._writing():
            self._request("put_file", name, before=(str(local),), seconds=_seconds(local.stat().st_size))

    def download(self, name: str, local: Path) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            size = self._request("info", name, seconds=REQUEST_SECONDS)["size"]
            with replacing(local) as scratch:
                self._request("get_file", name, str(scratch), seconds=_seconds(int(size)))
        except FileNotFoundError:
            remedy = "copy or build the cache again, whole"
            raise CacheError("an object is missing", where=f"{self.url}/{name}", remedy=remedy) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            remedy = "create the bucket first"
            raise CacheError("cannot write here", where=self.url, value=error, remedy=remedy) from None

    def _request(
        self, method: str, name: str, *after: Any, seconds: float, before: Sequence[Any] = (), **options: Any
    ) -> Any:
        """Call a method of the file system for an object, with retries and a limit to every wait."""
        files, root = self._open()
        files.invalidate_cache()
        call = _within(files, method, seconds)
        path, where = f"{root}/{name}".rstrip("/"), f"{self.url}/{name}".rstrip("/")
        return persistent(lambda: call(*before, path, *after, **options), where=where)


def _within(files: AbstractFileSystem, method: str, seconds: float) -> Callable[..., Any]:
    """A method of a file system that gives up after some time, whatever is waited for: s3fs waits for ever on a server
    that accepts a connection and never answers. Only asynchronous file systems (s3, gs, az, http) have such a limit."""
    from fsspec import asyn

    if not isinstance(files, asyn.AsyncFileSystem):
        return getattr(files, method)
    return partial(asyn.sync, files.loop, getattr(files, f"_{method}"), timeout=seconds)


def _seconds(size: int) -> float:
    return REQUEST_SECONDS + size / SLOWEST
