"""Drops files from the kernel's page cache, measures how much of them is there, and counts bytes read from disk."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def drop(files: Sequence[Path]) -> None:
    """Drop files from the page cache. Pages that a process has mapped and read stay, so close such readers first."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet cannot be forgotten
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def warm(files: Sequence[Path]) -> None:
    """Read all of them once."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(8 << 20):
                pass


def resident_share(files: Sequence[Path]) -> float:
    """The share of the files' pages that are in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    there = pages = 0
    for file in files:
        if not (size := file.stat().st_size):
            continue
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            flags = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
            if libc.mincore(view.ctypes.data, size, flags.ctypes.data):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
            there, pages = there + int((flags & 1).sum()), pages + len(flags)
            del view  # it would keep the mapping from closing
    return there / max(1, pages)


def read_ahead_bytes(path: Path) -> int:
    """Bytes that Linux reads around a missing page of a mapped file on this disk."""
    device = path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(setting.read_text()) * 1024 if setting.exists() else 128 * 1024


def bytes_from_disk() -> int:
    """Bytes that this process and its finished children have read from storage so far, including read-ahead."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, value = line.split(": ")
        if name == "read_bytes":
            return int(value)
    return 0


def available_bytes() -> int:
    """Memory that could hold files, as the kernel estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
