"""Scratch: samples or frames that may be more than memory holds; written once in order, read anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType

import numpy as np
import soxr
from numpy.typing import NDArray

from reencoder_pipeline.audio.block_resampling import BlockLowBand

Samples = NDArray[np.float32]

IN_MEMORY = 32 * 2**20  # bytes; what is larger goes to a file without a name, which goes when the process ends
BLOCK = 2**18  # samples that are worked on at a time


class Scratch:
    """float32 (width, length). Not a memory map: on a full disk writing to one kills the process."""

    def __init__(self, width: int, *, folder: Path) -> None:
        self.width, self.length, self.folder = width, 0, folder
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(folder))  # noqa: SIM115 - closed by `close`

    def __len__(self) -> int:
        return self.length

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def append(self, block: Samples) -> None:
        """(width, n) at the end. OSError when the disk is full."""
        assert block.shape[0] == self.width, (block.shape, self.width)
        self._file.seek(self.length * self.width * 4)
        self._file.write(np.ascontiguousarray(block.T, dtype=np.float32).tobytes())  # (width, n) -> (n, width)
        self.length += block.shape[1]

    def read(self, start: int, stop: int) -> Samples:
        """(width, stop - start); all of it must be there."""
        assert 0 <= start <= stop <= self.length, (start, stop, self.length)
        self._file.seek(start * self.width * 4)
        content = self._file.read((stop - start) * self.width * 4)
        return np.frombuffer(content, dtype=np.float32).reshape(-1, self.width).T  # (n, width) -> (width, n)

    def read_mirrored(self, start: int, stop: int) -> Samples:
        """(width, stop - start) of a signal that goes on beyond its ends as in a mirror."""
        if 0 <= start <= stop <= self.length:
            return self.read(start, stop)
        period = max(1, 2 * (self.length - 1))
        places = np.arange(start, stop) % period
        places = np.minimum(places, period - places) if self.length > 1 else np.zeros_like(places)
        first, last = int(places.min()), int(places.max())
        return self.read(first, last + 1)[:, places - first]

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, int]]:
        """(start, stop) of all of it, `size` at a time."""
        for start in range(0, self.length, size):
            yield start, min(start + size, self.length)


def resampled(audio: Scratch, rate: int, new_rate: int, *, length: int | None = None) -> Scratch:
    """Resampled as by `resample` (soxr VHQ): (width, ceil(length * new_rate / rate)), or its
    first `length` samples."""
    output = Scratch(audio.width, folder=audio.folder)
    length = -(-len(audio) * new_rate // rate) if length is None else length
    stream = soxr.ResampleStream(rate, new_rate, audio.width, dtype="float32", quality="VHQ")
    for start, stop in audio.blocks():
        block = stream.resample_chunk(np.ascontiguousarray(audio.read(start, stop).T), last=stop == len(audio))
        output.append(block.reshape(-1, audio.width).T[:, : length - len(output)])
    output.append(np.zeros((audio.width, length - len(output)), dtype=np.float32))
    return output


def low_banded(audio: Scratch, rate: int, *, low_rate: int, resampler: str) -> Scratch:
    """The low band as training makes it: (width, length) -> (width, length), down to `low_rate` and back."""
    output = Scratch(audio.width, folder=audio.folder)
    stage = BlockLowBand(channels=audio.width, sample_rate=rate, low_rate=low_rate, resampler=resampler)
    for start, stop in audio.blocks():
        output.append(stage.add(audio.read(start, stop)))
    output.append(stage.finish())
    return output


def excerpt(audio: Scratch, start: int, length: int) -> Scratch:
    """(width, length) from sample `start` on; what lies beyond the ends is their mirror image."""
    output = Scratch(audio.width, folder=audio.folder)
    for place in range(start, start + length, BLOCK):
        output.append(audio.read_mirrored(place, min(place + BLOCK, start + length)))
    return output


def downmixed(audio: Scratch, *, channel: int | None = None) -> Scratch:
    """(channels, length) -> (1, length): the mean, or one of the channels."""
    output = Scratch(1, folder=audio.folder)
    for start, stop in audio.blocks():
        block = audio.read(start, stop)
        one = block.mean(axis=0, keepdims=True, dtype=np.float32) if channel is None else block[channel : channel + 1]
        output.append(one)
    return output
