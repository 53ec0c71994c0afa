"""Files that are whole or not there: written beside their place, synced, renamed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.owners import owner

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def beside(path: Path) -> Path:
    """Where this process writes what becomes `path`: no other process does, on any machine that shares the folder."""
    return path.with_name(f"{path.name}.{owner()}.partial")


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Whatever happens, `path` is afterwards the old file or the new one. OSError leaves nothing behind."""
    partial = beside(path)
    try:
        partial.write_bytes(content)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


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


def sync(path: Path) -> None:
    """fsync a file, or a folder (which makes renames in it durable)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
