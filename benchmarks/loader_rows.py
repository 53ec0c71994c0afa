"""Defines the windows of the loader's benchmark, our rows, the limits, and the check of every row."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from random_cache import STREAMS, Noise
from torch import Tensor

from reencoder_pipeline.cache.formats.zarr_shards import data_file
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.tasks import Task
from reencoder_trainer.windows.mapped_windows import WindowLoader

Batch = Tensor | Mapping[str, Tensor]
"""(B, T, streams, C), or stream -> (B, T, C), which is what the trainer's step takes; float16 on the CPU."""
Batches = Generator[Batch, None, None]
Reads = Literal["exactly", "around", "track", "sequence"]


@dataclass(frozen=True)
class Windows:
    """The windows that every row delivers: `frames` frames of all streams of a task, `batch` windows at once."""

    noise: Noise
    task: Task
    frames: int
    batch: int

    @property
    def streams(self) -> tuple[str, ...]:
        return self.task.streams

    @property
    def rows(self) -> list[int]:
        """Indices of the streams in noise.frames."""
        return [STREAMS.index(name) for name in self.streams]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of a batch: (B, T, streams, C)."""
        return self.batch, self.frames, len(self.streams), self.noise.frames.shape[2]

    @property
    def window_bytes(self) -> int:
        return 2 * math.prod(self.shape[1:])

    @property
    def data_bytes(self) -> int:
        """Bytes of all streams of the task."""
        return self.noise.frames[self.rows[0]].nbytes * len(self.streams)

    def record(self, number: int) -> NDArray[np.float16]:
        """A track as (T, streams, C): a window of it lies in one piece."""
        return np.ascontiguousarray(self.noise.track(number)[self.rows].transpose(1, 0, 2))

    def places(self) -> Iterator[list[tuple[int, int]]]:
        """Endless batches of (track, first frame), drawn at once; every position in the data is equally likely."""
        positions = np.maximum(self.noise.lengths - self.frames + 1, 0)
        ends, generator = np.cumsum(positions), np.random.default_rng(0)
        while True:
            drawn = generator.integers(ends[-1], size=self.batch)
            tracks = np.searchsorted(ends, drawn, side="right")
            starts = drawn - (ends - positions)[tracks]
            yield list(zip(tracks.tolist(), starts.tolist(), strict=True))


@dataclass(frozen=True)
class Row:
    """One way to get batches. `open` opens its files and returns an endless iterator of batches, which must be closed.

    `independent`: each window is drawn from all data; otherwise a buffer of windows is shuffled. `reads` says what one
    more window reads from a disk: its own pages, the kernel's read-ahead around them, its whole track, or the next
    piece of a pass over everything. `tuned`: a peer that we made faster than its shipped form.
    """

    name: str
    folder: Path
    open: Callable[[Windows], Batches]
    independent: bool = True
    reads: Reads = "around"
    workers: int = 0
    tuned: bool = False


def our_row(path: Path, *, name: str) -> Row:
    """The trainer's own loader, in this process."""

    def batches(wanted: Windows) -> Batches:
        loader = WindowLoader(open_cache(path), wanted.task, split="train", num_frames=wanted.frames, seed=0)
        return (loader.batch(step, batch_size=wanted.batch) for step in itertools.count())

    return Row(name, path, batches, reads="exactly")


def raw_row(path: Path, *, threads: int) -> Row:
    """The limit of random reads from a disk: a `pread` a window and stream of a Zarr cache, without read-ahead."""

    def batches(wanted: Windows) -> Batches:
        cache, frame_bytes, descriptors = open_cache(path), wanted.noise.frames[0, 0].nbytes, {}
        for shard in cache.shards:
            for stream in wanted.streams:
                descriptor = os.open(data_file(path / "shards" / shard.key, stream), os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                descriptors[shard.key, stream] = descriptor

        def read(place: tuple[int, int], window: NDArray[Any]) -> None:
            track = cache.tracks[place[0]]
            for stream, target in zip(wanted.streams, window, strict=True):
                os.preadv(descriptors[track.shard, stream], [target], (track.first_frame + place[1]) * frame_bytes)

        def read_batches() -> Batches:
            try:
                with ThreadPoolExecutor(threads) as pool:
                    for places in wanted.places():
                        batch = stream_first(wanted)
                        list(pool.map(read, places, batch))
                        yield torch.from_numpy(batch).transpose(1, 2)  # (B, streams, T, C) -> (B, T, streams, C)
            finally:
                for descriptor in descriptors.values():
                    os.close(descriptor)

        return read_batches()

    return Row(f"pread a window, {threads} thread{'s' * (threads > 1)}", path, batches, reads="exactly")


def stream_first(wanted: Windows) -> NDArray[np.float16]:
    """An empty batch, (B, streams, T, C)."""
    batch, frames, streams, channels = wanted.shape
    return np.empty((batch, streams, frames, channels), np.float16)


class Proof:
    """Looks windows up in the original data."""

    def __init__(self, noise: Noise, stream: int) -> None:
        self._noise = noise
        self._keys = np.ascontiguousarray(noise.frames[stream, :, :4]).view(np.uint64)[:, 0]  # a frame's first 8 bytes
        self._order = np.argsort(self._keys)
        self._keys = self._keys[self._order]

    def tracks_in(self, batch: Batch, wanted: Windows, *, name: str) -> int:
        """The number of tracks in a batch. CacheError if a window is not in the data."""
        if not isinstance(batch, Tensor):
            batch = torch.stack([batch[stream] for stream in wanted.streams], dim=2)
        if batch.shape != wanted.shape or batch.dtype != torch.float16:
            raise CacheError(
                "this row delivers batches of another shape or type", where=name,
                value=f"{tuple(batch.shape)} of {batch.dtype}", remedy=f"it must be {wanted.shape} of torch.float16",
            )  # fmt: skip
        windows = batch.transpose(1, 2).numpy()  # (B, T, streams, C) -> (B, streams, T, C)
        return len({self._track(window, wanted, name=name) for window in windows})

    def _track(self, window: NDArray[np.float16], wanted: Windows, *, name: str) -> int:
        """`window` is (streams, T, C)."""
        key = np.ascontiguousarray(window[0, 0, :4]).view(np.uint64)[0]
        for found in range(*(int(np.searchsorted(self._keys, key, side=side)) for side in ("left", "right"))):
            position = int(self._order[found])
            track = int(np.searchsorted(self._noise.bounds, position, side="right")) - 1
            expected = self._noise.frames[wanted.rows, position : position + wanted.frames]
            inside = position + wanted.frames <= self._noise.bounds[track + 1]
            if inside and np.array_equal(expected.view(np.uint16), window.view(np.uint16)):
                return track
        raise CacheError(
            "delivers a window that is not in the data",
            where=name,
            remedy="if --folder holds files of an older benchmark, delete them",
        )
