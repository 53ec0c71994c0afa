"""Folders that a command may write into: empty ones, and its own; one process at a time works in one."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import yaml

from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.stores.atomic import FULL_DISK, scratch_owner

LOCK = ".lock"
SHOWN = 5  # names of what is in the way
LARGEST_MARK = 2**20  # bytes of a settings or run file that is looked into


def require_own_folder(
    folder: Path, *, marks: Mapping[str, Sequence[str]], leftovers: Callable[[str], bool] = lambda name: False
) -> None:
    """ConfigError unless `folder` is absent, empty, or provably that of an earlier run of the same command.

    `marks` maps the name of a settings or run file that the command writes there to keys which this JSON or YAML file
    holds: a file of the same name by another program proves nothing. A run that was killed before it wrote its mark
    leaves only scratch files, the lock, and names that `leftovers` recognises.

    Example::

        require_own_folder(Path("out/cache"), marks={"settings.json": ("autoencoder", "weights")})
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ConfigError("the output folder is a file", where=folder, remedy="choose another --out folder") from None
    except OSError as error:
        remedy = "check its permissions, or choose another --out folder"
        raise ConfigError(
            "the output folder cannot be read", where=folder, value=error.strerror, remedy=remedy
        ) from None
    if any(_holds(folder / name, keys) for name, keys in marks.items()):
        return
    refuse_others(names, where=folder, marks=marks, leftovers=leftovers)


def refuse_others(
    names: Sequence[str], *, where: object, marks: Mapping[str, Sequence[str]], leftovers: Callable[[str], bool]
) -> None:
    """The ConfigError of `require_own_folder`, if any of these names in an unmarked place is not ours."""
    others = [name for name in names if name != LOCK and scratch_owner(name) is None and not leftovers(name)]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise ConfigError(
            "the output folder is neither empty nor one that this command made: "
            f"it holds no {' or '.join(marks)} of this command",
            where=where,
            value=", ".join(map(repr, others[:SHOWN])) + more,
            remedy="choose another --out folder, or move these files away; nothing was changed",
        )


def require_own_file(path: Path, *, holds: bytes, remedy: str, proof: Path | None = None) -> None:
    """ConfigError where something of this name exists that the command has not made: what it makes holds the bytes
    `holds`, in the file itself or in `proof` beside it.

    Example::

        require_own_file(Path("README.md"), holds=b"library_name: reencoder", remedy="give another --out")
    """
    if not os.path.lexists(path):
        return
    proof = proof or path
    ours = False
    with suppress(OSError, ValueError):  # an empty file is not mapped
        if proof.is_file():  # opening a FIFO may never end
            with proof.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                ours = content.find(holds) >= 0
    if not ours:
        raise ConfigError(
            "a file of this name exists, and is none that this command made: it is left as it is", where=path,
            remedy=remedy,
        )  # fmt: skip


def _holds(mark: Path, keys: Sequence[str]) -> bool:
    try:
        if not mark.is_file() or mark.stat().st_size > LARGEST_MARK:
            return False
        return holds(mark.read_bytes(), mark.name, keys)
    except OSError:
        return False


def holds(content: bytes, name: str, keys: Sequence[str]) -> bool:
    """Whether the content of a JSON or YAML file of this name is a mapping with these keys; of lines of JSON (.jsonl),
    its first line."""
    if len(content) > LARGEST_MARK:
        return False
    try:
        text = content.decode("utf-8")
        if name.endswith(".jsonl"):
            text = text.partition("\n")[0]
        values = yaml.safe_load(text) if name.endswith((".yaml", ".yml")) else json.loads(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return False
    return isinstance(values, dict) and all(key in values for key in keys)


@contextmanager
def folder_lock(folder: Path, *, what: str, name: str = LOCK) -> Iterator[None]:
    """Hold a lock in a folder, which is made if it is absent. ConfigError if another process works there; it names that
    process and its work (`what`, such as "a training"). The kernel frees the lock when the process ends,
    however it ends; the file `name` is removed at the end of the block.
    """
    path = folder / name
    while True:
        with _opened(path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read(200).strip() or "a process that does not say its name"
                raise ConfigError(
                    f"{what} is running in this folder", where=folder, value=holder,
                    remedy="wait for it, stop it, or choose another --out folder",
                ) from None  # fmt: skip
            except OSError as error:  # some network file systems
                said = f"this file system has no locks ({error.strerror}): let one process at a time work there"
                print(f"{folder}: {said}", file=sys.stderr)
            if not _is_still(path, lock):  # its holder has just ended, and a lock on a file without a name is none
                continue
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link may lead anywhere
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        remedy = "choose another --out folder, or check its permissions"
        raise ConfigError(
            "the output folder cannot be written", where=path.parent, value=error.strerror, remedy=remedy
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError("the folder's lock is no file", where=path, remedy="move it away")
    return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")


def _is_still(path: Path, lock: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False
