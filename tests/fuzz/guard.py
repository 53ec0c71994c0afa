"""What a reader of foreign bytes may do: raise a ReencoderError or return, soon, and within a bounded memory."""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from reencoder_pipeline.errors import ReencoderError

SECONDS = 10
FACTOR = 16  # bytes allocated a byte of the file
FLOOR = 96 * 2**20  # and so many at once: blocks of audio, resamplers, tables
LONGEST_MESSAGE = 20_000  # characters


class TooLongError(Exception):
    """A reader was still at work after SECONDS."""


def judge(read: Callable[[], object], *, size: int) -> ReencoderError | None:
    """Run a reader on a file of `size` bytes; its error, if it refused the file. Anything but a ReencoderError that
    escapes is a fault, and so are more than SECONDS, more memory than FLOOR + FACTOR * size, and an endless message.
    """
    refused = None
    with _within(SECONDS), _bounded(FLOOR + FACTOR * size):
        try:
            read()
        except ReencoderError as error:
            refused = error
    assert refused is None or len(str(refused)) < LONGEST_MESSAGE, f"a message of {len(str(refused))} characters"
    return refused


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _bounded(limit: int) -> Iterator[None]:
    """Two measures: what Python and numpy ask for, touched or not, and how far the process has grown (torch, C)."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    tracemalloc.reset_peak()
    traced, resident = tracemalloc.get_traced_memory()[0], _resident(reset=True)
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] - traced
        grown = _resident(field="VmHWM") - resident
        assert max(peak, grown) <= limit, f"{max(peak, grown):,} bytes of memory, {limit:,} allowed"
    finally:
        if started:
            tracemalloc.stop()


def _resident(*, field: str = "VmRSS", reset: bool = False) -> int:
    """Bytes of this process in memory: now (VmRSS), or the most since the last reset (VmHWM). 0 without a /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = status.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
