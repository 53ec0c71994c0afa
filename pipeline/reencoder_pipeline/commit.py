"""Complete or absent: locks, commit records, and sweeping away what a killed build left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reencoder_pipeline.cache import canonical_digest
from reencoder_pipeline.durable import write_text
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.record import Record, record_from_dict, record_to_dict

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


@contextmanager
def naming_a_full_disk(where: Path) -> Iterator[None]:
    """Around everything that writes: CacheError instead of a bare OSError when there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        remedy = "make room and run the same command again: finished shards are kept"
        raise CacheError("the disk is full", where=where, value=error.strerror, remedy=remedy) from None


def write_record(out: Path, record: Record) -> None:
    """Commit a shard. The record holds its own digest: a flipped bit in its sums would spoil the cache's statistics."""
    values = record_to_dict(record)
    write_text(record_file(out, record.shard.key), json.dumps({**values, "digest": canonical_digest(values)}))


def read_record(out: Path, key: str) -> Record | None:
    """The commit record of a finished shard whose files are all there in full size; None if it has to be built."""
    record = parse_record(record_file(out, key))
    whole = record is not None and all(
        (out / name).is_file() and (out / name).stat().st_size == size for name, (size, _) in record.shard.files.items()
    )
    return record if whole else None


def parse_record(file: Path) -> Record | None:
    """None if the record is missing or damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        digest = values.pop("digest")
        return record_from_dict(values) if digest == canonical_digest(values) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def record_file(out: Path, key: str) -> Path:
    return out / SHARDS / f"{key}.json"


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
