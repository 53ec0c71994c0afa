"""Files of a remote cache in a local folder: fetched when asked for, checked on arrival, shared by processes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from reencoder_pipeline.cache.formats.zarr_shards import is_own_file
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.atomic import replacing, scratch_owner
from reencoder_pipeline.stores.checked_reader import ObjectReader

FILES_AT_ONCE = 8
IN_USE, FETCHING = ".in-use", ".fetching"
_COPY = re.compile(r"[0-9a-f]{64}")  # a folder that holds one

Files = Mapping[str, tuple[int, str]]
"""Path below the cache -> (bytes, sha256), as in a shard of the index."""
Progress = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes to fetch, from one thread at a time."""


class LocalCopy:
    """`folder` holds what was asked for of the cache at `url`, file for file.

    It is `<root>/<digest>`, so that it belongs to one content, wherever that came from. `limit` bounds the bytes of all
    copies below `root` (None: what the disk holds). To make room, files of copies that no process has open go, the
    least recently used first; files of this copy never do.
    """

    def __init__(
        self, url: str, digest: str, *, root: Path | None, limit: int | None, progress: Progress | None
    ) -> None:
        self.url, self.root = url, root or default_root()
        self.folder = self.root / digest
        self._limit, self._progress = limit, progress or (lambda done, total: None)
        self._reader = ObjectReader(url)
        self._registered = False

    def fetch(self, files: Files) -> None:
        """Afterwards these files are here, whole and as the index says. CacheError if they cannot be, or do not fit.

        A file is written beside its place, digested, synced and renamed, so a kill leaves no half file. Of several
        processes one fetches and the others wait for it.
        """
        try:
            self._register()
            if self._missing(files):
                with _locked(self.folder / FETCHING):
                    missing = self._missing(files)  # another process may have been here
                    self._sweep(missing)
                    self._make_room(missing, files)
                    self._fetch(missing)
            for name in files:
                os.utime(self.folder / name)  # used now, for whoever has to make room
        except OSError as error:
            remedy = "make room, or set another folder (`local_folder`, or XDG_CACHE_HOME); what arrived is kept"
            raise CacheError(
                "the local copy cannot be written", where=self.folder, value=error, remedy=remedy
            ) from None

    def _register(self) -> None:
        """Hold a shared lock on this copy as long as this object lives; the kernel drops it with the process."""
        if not self._registered:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / IN_USE, os.O_RDWR | os.O_CREAT)
            weakref.finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._registered = True

    def _missing(self, files: Files) -> dict[str, tuple[int, str]]:
        return {name: promised for name, promised in files.items() if _size(self.folder / name) != promised[0]}

    def _sweep(self, files: Files) -> None:
        """Remove what a killed fetch left half-written beside these files; the lock is held, so none is at work."""
        for folder in {(self.folder / name).parent for name in files}:
            for path in folder.glob(".*.partial"):
                if scratch_owner(path.name) is not None:
                    path.unlink(missing_ok=True)

    def _fetch(self, files: Files) -> None:
        total, done, counting = sum(size for size, _ in files.values()), 0, Lock()

        def count(size: int) -> None:
            nonlocal done
            with counting:
                done += size
                self._progress(done, total)

        def fetch(name: str, size: int, sha256: str) -> None:
            final = self.folder / name
            final.parent.mkdir(parents=True, exist_ok=True)
            with replacing(final) as scratch:

                def write(pieces: Iterator[bytes]) -> None:
                    with scratch.open("wb") as file:
                        for piece in pieces:
                            file.write(piece)

                self._reader.read_checked(name, size=size, sha256=sha256, take=write)
            count(size)

        with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
            fetches = [threads.submit(fetch, name, *promised) for name, promised in files.items()]
            try:
                for finished in as_completed(fetches):
                    finished.result()
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    def _make_room(self, missing: Files, wanted: Files) -> None:
        needed = sum(size for size, _ in missing.values())
        present = _copies(self.root)
        room = shutil.disk_usage(self.folder).free
        if self._limit is not None:
            room = min(room, self._limit - sum(size for _, size, _ in present))
        if room >= needed:
            return
        with _unused(self.root, but=self.folder) as folders:
            removable = sorted(
                (used, size, path) for path, size, used in present if any(path.is_relative_to(f) for f in folders)
            )
            if room + sum(size for _, size, _ in removable) < needed:
                total = sum(size for size, _ in wanted.values())
                raise CacheError(
                    "the files that are needed do not fit the local folder",
                    where=self.root,
                    value=f"{total / 1e9:.3f} GB are needed, {needed / 1e9:.3f} GB of them not here; "
                    f"there is room for {max(room, 0) / 1e9:.3f} GB",
                    remedy="raise `local_gigabytes`, or set `stream_shards`: then only so many shards are held, in "
                    "memory; or delete copies that are not needed",
                )
            for _, size, path in removable:
                if room >= needed:
                    break
                path.unlink(missing_ok=True)
                room += size


def default_root() -> Path:
    """The user's cache directory, as the XDG specification has it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "reencoder" / "latent-caches"


def _copies(root: Path) -> list[tuple[Path, int, float]]:
    """(file, bytes, when it was last used) of all copies; files may go while we look. What has a name that no copy
    gives is not ours: `root` may be any folder."""
    found = []
    for folder in root.iterdir():
        if _COPY.fullmatch(folder.name) is None or folder.is_symlink():
            continue
        for path in folder.glob("shards/**/*"):
            with suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and _is_ours(path.relative_to(folder).as_posix()):
                    found.append((path, path.stat().st_size, path.stat().st_mtime))
    return found


def _is_ours(name: str) -> bool:
    _, key, *inside = name.split("/")
    if scratch_owner(name.rpartition("/")[2]) is not None:
        return True
    return is_own_file("/".join(inside)) if inside else key.endswith(".tar")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _unused(root: Path, *, but: Path) -> Iterator[list[Path]]:
    """The copies that no process has open; none can open one of them meanwhile."""
    held: list[tuple[Path, int]] = []
    try:
        for lock in root.glob(f"*/{IN_USE}"):
            if lock.parent == but or _COPY.fullmatch(lock.parent.name) is None:
                continue
            descriptor = os.open(lock, os.O_RDWR)
            held.append((lock.parent, descriptor))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held.pop()[1])
        yield [folder for folder, _ in held]
    finally:
        for _, descriptor in held:
            os.close(descriptor)
