"""FolderStore: named bytes in a folder of this machine or of a network file system."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.safe_text import file_kind
from reencoder_pipeline.stores.atomic import beside, remove, replacing, scratch_owner, sync, write_whole
from reencoder_pipeline.stores.writer_id import is_of_this_machine

ABANDONED = 3600.0  # seconds: a file of another machine, half-written for so long, is never finished


class FolderStore:
    """A Store in a folder of this machine, or of a network file system that several machines share. `ObjectStore` has
    the same methods, which promise the same."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, str(folder)

    def read(self, name: str) -> bytes | None:
        """None if there is nothing of this name."""
        path = self.folder / name
        while True:
            try:
                if path.exists() and not path.is_file():  # reading a FIFO or a device may never end
                    remedy = "remove it, or give another folder"
                    raise CacheError("is not a regular file", where=path, value=file_kind(path), remedy=remedy)
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if error.errno != errno.ESTALE:  # NFS: replaced between opening and reading it
                    raise

    def write(self, name: str, content: bytes) -> None:
        """Afterwards the object is the old one or the new one, never a part."""
        write_whole(self._place(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write only if there is nothing of this name; False if there is something else. The same content counts as
        written: the answer to an earlier attempt may have been lost."""
        path = self._place(name)
        unfinished = beside(path)
        try:
            unfinished.write_bytes(content)
            sync(unfinished)
            _link(unfinished, path, content)
        except FileExistsError:
            return self.read(name) == content
        finally:
            unfinished.unlink(missing_ok=True)
        sync(path.parent)
        return True

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of all objects below a folder, at any depth, in order of their names."""
        return dict(sorted(_files(self.folder / folder, f"{folder}/" if folder else "")))

    def remove(self, name: str) -> None:
        """An object, or a folder with all that is in it; nothing happens where there is none."""
        remove(self.folder / name)

    def sweep(self, has_ended: Callable[[str], bool]) -> None:
        """Remove what is half-written and never will be whole: its writer, a `writer_id.owner()`, has ended."""
        for path in [*self.folder.glob(".*.partial"), *self.folder.glob("*/.*.partial")]:
            writer = scratch_owner(path.name)
            if writer and (has_ended(writer) or (not is_of_this_machine(writer) and _is_old(path))):
                # What goes away meanwhile is removed by another sweep, or still being written: the next build's turn.
                with suppress(OSError):
                    remove(path)

    def upload(self, local: Path, name: str) -> None:
        with replacing(self._place(name)) as scratch:
            shutil.copyfile(local, scratch)

    def download(self, name: str, local: Path) -> None:
        """An object becomes a local file, whole or not there. CacheError if there is none."""
        if not (self.folder / name).is_file():
            remedy = "copy or build the cache again, whole"
            raise CacheError("a file is missing", where=self.folder / name, remedy=remedy)
        FolderStore(local.parent).upload(self.folder / name, local.name)

    def _place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _link(unfinished: Path, path: Path, content: bytes) -> None:
    """A second name for a whole file, FileExistsError where there is one already; NFS keeps this promise too."""
    try:
        os.link(unfinished, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        with path.open("xb") as file:  # file systems without links: exclusive all the same, whole only after a moment
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Other processes write and remove at the same time: what goes away meanwhile is not there."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from _files(folder / entry.name, f"{prefix}{entry.name}/")
                elif entry.is_file():
                    try:
                        yield f"{prefix}{entry.name}", entry.stat().st_size
                    except FileNotFoundError:
                        continue
    except (FileNotFoundError, NotADirectoryError):
        return


def _is_old(path: Path) -> bool:
    """Judged by the clock of the file system: the folder changes whenever a build writes there."""
    try:
        return path.parent.stat().st_mtime - path.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False
