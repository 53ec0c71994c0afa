"""Maps many files into one address range, so that one tensor covers all of them and a batch is one gather."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import CacheError

if TYPE_CHECKING:
    from torch import Tensor


_PROT_NONE, _PROT_READ = 0, 1
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED = 0x01, 0x02, 0x10  # these four as Linux defines them
_MAP_ANONYMOUS, _MAP_NORESERVE = 0x20, 0x4000
_MADV_WILLNEED = 3
_PROCESS_MADVISE = 440  # the system call's number, the same on x86-64 and arm64
_MAX_RANGES = 1024  # of one such call


class AddressRange:
    """Place i of the range is for a file of sizes[i] bytes; it begins at a page and with values[starts[i]].

    `values` is 1-d and read-only. Only places that were mapped or filled may be read; the others cost nothing.

    With one range instead of one memory map for each file, a batch is one index_select (62 to 86 % of memcpy) instead
    of a Python loop (26 to 59 %). Linux only; elsewhere the files are read into memory.

    Example::

        range_ = AddressRange([file.stat().st_size], dtype=np.dtype("float16"))
        range_.map_file(0, file)
        first_frame = range_.values[:64]
    """

    def __init__(self, sizes: Sequence[int], *, dtype: np.dtype[Any]) -> None:
        import torch

        if not sizes:
            raise CacheError("the cache has nothing to map: it holds no shard", remedy="build it again")
        self._sizes = sizes
        ends = np.cumsum([-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes])
        total = int(ends[-1])
        self._offsets = [0, *ends[:-1].tolist()]
        self.starts = tuple(offset // dtype.itemsize for offset in self._offsets)
        self._linux = sys.platform.startswith("linux")
        if self._linux:
            self._libc = _libc()
            flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
            self._base = _checked(self._libc.mmap(None, total, _PROT_NONE, flags, -1, 0), f"{total} bytes of addresses")
            buffer = (ctypes.c_char * total).from_address(self._base)
            # Not at exit, when threads may still be gathering: the kernel unmaps then. Gathered windows are copies, so
            # nothing outlives the tensor that keeps `buffer` alive.
            weakref.finalize(buffer, self._libc.munmap, self._base, total).atexit = False
            array = np.frombuffer(memoryview(buffer), dtype=dtype, count=total // dtype.itemsize)
        else:
            self._memory = np.empty(total, dtype=np.uint8)
            array = self._memory.view(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the array is not writable, which is the point
            array.flags.writeable = False
            self.values: Tensor = torch.from_numpy(array)

    def map_file(self, number: int, file: Path) -> None:
        """Map a file of at least the promised size to its place. Pages are read when they are first used."""
        offset, size = self._offsets[number], self._sizes[number]
        if not self._linux:
            self._memory[offset : offset + size] = np.fromfile(file, dtype=np.uint8, count=size)
            return
        descriptor = os.open(file, os.O_RDONLY)
        try:
            flags = _MAP_SHARED | _MAP_FIXED
            _checked(self._libc.mmap(self._base + offset, size, _PROT_READ, flags, descriptor, 0), file)
        finally:
            os.close(descriptor)

    def fill(self, number: int, array: NDArray[Any]) -> None:
        """Copy an array of at most the promised size into the place of a file."""
        offset, content = self._offsets[number], np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if not self._linux:
            self._memory[offset : offset + content.size] = content
            return
        flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_FIXED
        place = self._base + offset
        _checked(self._libc.mmap(place, content.size, _PROT_READ | mmap.PROT_WRITE, flags, -1, 0), "memory")
        ctypes.memmove(place, content.ctypes.data, content.size)

    def will_need(self, addresses: NDArray[np.int64], *, width: int) -> None:
        """Make the kernel read the pages of these windows at once; a window is `width` values from its address.

        Otherwise each window that is not in memory is a page fault. It waits for the disk, and reads the device's whole
        read-ahead (128 KB to 8 MB) for the 8 KB of a window. With MADV_RANDOM every page is a fault of its own: 4 times
        slower than this. Where all pages are in memory, this costs about a quarter of a gather.
        """
        if not self._linux:
            return
        itemsize = self.values.element_size()
        starts = (addresses * itemsize + self._base) // mmap.PAGESIZE * mmap.PAGESIZE
        lengths = (addresses + width) * itemsize + self._base - starts
        ranges = np.stack([starts, lengths], axis=1).astype(np.uint64)  # an array of struct iovec
        for first in range(0, len(ranges), _MAX_RANGES):
            some = np.ascontiguousarray(ranges[first : first + _MAX_RANGES])
            if not _advise(self._libc, some):  # an old or a locked-down kernel
                for start, length in some.tolist():
                    self._libc.madvise(start, length, _MADV_WILLNEED)


def gather(values: Tensor, addresses: NDArray[np.int64], *, num_frames: int, channels: int) -> Tensor:
    """(B,) addresses in 1-d values -> (B, num_frames, channels), copied by one index_select.

    Gathering 64-bit words, rows of frames, or by numpy's fancy indexing was slower. Memory that is kept for the next
    batch made no difference (0.45 to 1.35 ms of CPU a batch, with and without within 3 %).
    """
    import torch

    width = num_frames * channels
    windows = values.as_strided((len(values) - width + 1, width), (1, 1))
    return torch.index_select(windows, 0, torch.from_numpy(addresses)).view(-1, num_frames, channels)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint]
    libc.syscall.restype = ctypes.c_long
    return libc


def _advise(libc: ctypes.CDLL, ranges: NDArray[np.uint64]) -> bool:
    """process_madvise(2): all ranges in one call, 1 ms for 512 of them."""
    try:
        process = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        return libc.syscall(_PROCESS_MADVISE, process, ranges.ctypes.data, len(ranges), _MADV_WILLNEED, 0) > 0
    finally:
        os.close(process)


def _checked(address: int | None, what: object) -> int:
    if address is None or address == ctypes.c_void_p(-1).value:
        remedy = "raise vm.max_map_count, or build with larger shards: a process may map only so many files"
        raise CacheError(
            "the file cannot be mapped into memory", where=what, value=os.strerror(ctypes.get_errno()), remedy=remedy
        )
    return address
