"""Complete or absent: locks, durable renames, commit records, and sweeping away what a killed build left behind."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.record import Record, record_from_dict

SHARDS = "shards"


@contextmanager
def build_lock(out: Path) -> Iterator[None]:
    """One build in a folder at a time. The kernel drops the lock with the process, however that ends."""
    try:
        (out / SHARDS).mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise CacheError("cannot write here", where=out, value=error.strerror) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CacheError(
                "another build is running here", where=out, remedy="wait for it, or use another --out"
            ) from None
        yield


def write_text(path: Path, text: str) -> None:
    """Write beside, sync, rename, sync the folder: afterwards the file is whole, whatever happens."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file, or a folder (which makes renames in it durable)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_record(out: Path, key: str) -> Record | None:
    """The commit record of a finished shard whose files are all there in full size; None if it has to be built."""
    file = out / SHARDS / f"{key}.json"
    if not file.exists():
        return None
    try:
        record = record_from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):
        return None
    whole = all(
        (out / name).is_file() and (out / name).stat().st_size == size for name, (size, _) in record.shard.files.items()
    )
    return record if whole else None


def sweep(out: Path, keep: set[str] | None = None) -> None:
    """Remove unfinished pieces; with `keep`, also finished shards of other keys (tracks that left the corpus)."""
    for entry in [*out.glob("*.partial"), *(out / SHARDS).iterdir()]:
        key = entry.name.split(".")[0]
        abandoned = ".partial" in entry.name or not (out / SHARDS / f"{key}.json").exists()
        if abandoned or (keep is not None and key not in keep):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
