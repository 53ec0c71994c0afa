"""Copies files of a remote cache into a local folder when they are needed, checked, once for all processes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Lock

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.progress import Progress
from reencoder_pipeline.stores.atomic import replacing, scratch_owner
from reencoder_pipeline.stores.checked_reader import ObjectReader

FILES_AT_ONCE = 8
FETCHING = ".fetching"
COPIES_NAMED = 5  # in an error
_COPY = re.compile(r"[0-9a-f]{64}")  # a folder that holds one

Files = Mapping[str, tuple[int, str]]
"""Path below the cache -> (bytes, sha256), as in a shard of the index."""


class LocalCopy:
    """`folder` holds the files that were fetched of the cache at `url`, under the same names.

    It is `<root>/<digest>`, so that it belongs to one content, wherever that came from. `limit` bounds the bytes of all
    copies below `root` (None: what the disk holds). Nothing is deleted to make room: an error names what could go.
    """

    def __init__(
        self, url: str, digest: str, *, root: Path | None, limit: int | None, progress: Progress | None
    ) -> None:
        self.url, self.root = url, root or default_root()
        self.folder = self.root / digest
        self._limit, self._progress = limit, progress or (lambda done, total: None)
        self._reader = ObjectReader(url)

    def fetch(self, files: Files) -> None:
        """Afterwards these files are here, whole and as the index says. CacheError if they cannot be, or do not fit.

        A file is written beside its place, digested, synced and renamed, so a kill leaves no half file. If several
        processes need one, the first fetches it and the others wait.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._missing(files):
                with _locked(self.folder / FETCHING):
                    missing = self._missing(files)  # another process may have been here
                    self._sweep(missing)
                    self._require_room(missing, files)
                    self._fetch(missing)
            os.utime(self.folder)  # used now: errors about room name the copies that were used longest ago
        except OSError as error:
            remedy = "make room, or set another folder (`local_folder`, or XDG_CACHE_HOME); what arrived is kept"
            raise CacheError(
                "the local copy cannot be written", where=self.folder, value=error, remedy=remedy
            ) from None

    def _missing(self, files: Files) -> dict[str, tuple[int, str]]:
        return {name: promised for name, promised in files.items() if _size(self.folder / name) != promised[0]}

    def _sweep(self, files: Files) -> None:
        """Remove what a killed fetch left half-written beside these files; the lock is held, so no other one runs."""
        for folder in {(self.folder / name).parent for name in files}:
            for path in folder.glob(".*.partial"):
                if scratch_owner(path.name) is not None:
                    path.unlink(missing_ok=True)

    def _fetch(self, files: Files) -> None:
        total, done, counting = sum(size for size, _ in files.values()), 0, Lock()

        def fetch(name: str, size: int, sha256: str) -> None:
            nonlocal done
            final = self.folder / name
            final.parent.mkdir(parents=True, exist_ok=True)
            with replacing(final) as scratch:

                def write(pieces: Iterator[bytes]) -> None:
                    with scratch.open("wb") as file:
                        file.writelines(pieces)

                self._reader.read_checked(name, size=size, sha256=sha256, take=write)
            with counting:
                done += size
                self._progress(done, total)

        with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
            fetches = [threads.submit(fetch, name, *promised) for name, promised in files.items()]
            try:
                for finished in as_completed(fetches):
                    finished.result()
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    def _require_room(self, missing: Files, wanted: Files) -> None:
        """CacheError where the missing files do not fit; it names the other copies, those used longest ago first."""
        needed, room = sum(size for size, _ in missing.values()), shutil.disk_usage(self.folder).free
        copies = _copies(self.root)
        if self._limit is not None:
            room = min(room, self._limit - sum(size for _, size, _ in copies))
        if room >= needed:
            return
        others = sorted((used, size, folder) for folder, size, used in copies if folder != self.folder)
        named = "".join(
            f"\n    {folder} ({size / 1e9:.3f} GB, last used {datetime.fromtimestamp(used).astimezone():%Y-%m-%d})"
            for used, size, folder in others[:COPIES_NAMED]
        )
        raise CacheError(
            "the files that are needed do not fit the local folder",
            where=self.root,
            value=f"{sum(size for size, _ in wanted.values()) / 1e9:.3f} GB are needed, {needed / 1e9:.3f} GB of them "
            f"not here; there is room for {max(room, 0) / 1e9:.3f} GB",
            remedy="raise `local_gigabytes`; or set `stream_shards`: then only so many shards are held, in memory"
            + (f"; or delete copies that no training uses:{named}" if named else ""),
        )


def default_root() -> Path:
    """The user's cache directory, as the XDG specification has it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "reencoder" / "latent-caches"


def _copies(root: Path) -> list[tuple[Path, int, float]]:
    """(folder, bytes, when it was last used) of all copies below `root`, which may be any folder."""
    found = []
    for folder in root.iterdir():
        with suppress(FileNotFoundError):  # files may go meanwhile
            if _COPY.fullmatch(folder.name) is not None and not folder.is_symlink():
                files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
                found.append((folder, sum(_size(path) or 0 for path in files), folder.stat().st_mtime))
    return found


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
