"""Files that are whole or not there: written beside their place, synced, renamed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.stores.writer_id import owner

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_SCRATCH = re.compile(r"\.reencoder-([0-9a-f]{8}-\d+-\d+)-[0-9a-f]{8}\.partial")


def beside(path: Path) -> Path:
    """A new name in the folder of `path` for what becomes `path`: short and random, so that it fits wherever the name
    of `path` fits, and never is the name of another file. `scratch_owner` recognises it.

    Example::

        beside(Path("cache/index.json"))  # cache/.reencoder-1f0c9a7e-4711-92113-5b8d21c4.partial
    """
    return path.with_name(f".reencoder-{owner()}-{secrets.token_hex(4)}.partial")


def scratch_owner(name: str) -> str | None:
    """The process (a `writer_id.owner`) that wrote a file of this name by way of `beside`; None for other names."""
    match = _SCRATCH.fullmatch(name)
    return match[1] if match else None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch name to write a file or a folder to. It is synced and renamed to `path` at the end; after an error it
    is removed, and `path` is as it was; an OSError names `path`.

    Example::

        with replacing(Path("out/a.wav")) as scratch:
            scratch.write_bytes(content)
    """
    scratch = beside(path)
    try:
        yield scratch
        sync(scratch)
        scratch.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.filename in (None, str(scratch)):  # a failed write names no file; the scratch name says nothing
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            remove(scratch)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file: afterwards `path` is the old file or the new one. An OSError leaves nothing behind."""
    with replacing(path) as scratch:
        scratch.write_bytes(content)


def write_checkpoint(path: Path, content: bytes | memoryview) -> None:
    """write_whole for trainings: a CheckpointError says how to go on."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise CheckpointError(
            "cannot be written; the one before it is untouched", where=path, value=error,
            remedy="make room, then go on with --resume",
        ) from None  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """write_whole, in UTF-8."""
    write_whole(path, text.encode("utf-8"))


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync a file, or a folder (which makes renames in it durable)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
