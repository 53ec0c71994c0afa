"""Training windows: batch k of the global batch is a pure function of (seed, k).

There is no loader state: resuming is counting on, and any number of processes sees the same batches, each taking its
slice. A batch of memory-mapped windows costs one vectorised draw and one gather, far less than a step; worker processes
would only add a copy. Corpora that fit no local disk: streaming_windows.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reencoder_pipeline.cache import CachedTrack, LatentCache
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.tasks import Task


class Draws:
    """Positions of a corpus for every step, drawn with replacement.

    `positions` (tracks,) counts each track's window starts, at least 1. Every position of the corpus is equally likely:
    a track is picked in proportion to its positions and the start in it uniformly.

    Philox is a keyed counter: (seed, step) is the key, so nothing is drawn in order. Its raw words are part of numpy's
    stability promise, the Generator methods built on them are not; the modulo's bias is below positions / 2^64. One
    generator is told key after key: making one takes ten times as long, a tenth of a batch.
    """

    def __init__(self, positions: np.ndarray, *, seed: int) -> None:
        ends = np.cumsum(positions, dtype=np.int64)
        self.firsts = ends - positions  # (tracks,): how many positions lie before a track's
        self._ends, self._total, self._seed = ends, np.uint64(ends[-1]), seed
        self._generator = np.random.Philox(key=0)
        self._state, self._drawing = self._generator.state, threading.Lock()

    def positions(self, step: int, *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """(track index, position in the whole corpus) of each window, each int64 (batch_size,)."""
        key = np.array([self._seed, step], dtype=np.uint64)
        with self._drawing:
            self._generator.state = {**self._state, "state": {**self._state["state"], "key": key}}
            words = self._generator.random_raw(batch_size)
        drawn = (words % self._total).view(np.int64)
        return np.searchsorted(self._ends, drawn, side="right"), drawn


def draw_windows(positions: np.ndarray, *, seed: int, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Window k of step `step`: (track index, start frame), each int64 (batch_size,), drawn as `Draws` says."""
    draws = Draws(positions, seed=seed)
    tracks, drawn = draws.positions(step, batch_size=batch_size)
    return tracks, drawn - draws.firsts[tracks]


class Windows(Protocol):
    """Where batches come from. `too_short` tracks of the split hold no whole window and are never drawn."""

    split: str
    num_tracks: int
    too_short: int
    num_windows: int
    """Different windows in the split: one per possible start frame."""

    def batch(self, step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """Rank `rank`'s slice of global batch `step`: raw latents (batch_size / world_size, T, C) of every stream."""
        ...

    def close(self) -> None:
        """No batch is asked for any more."""
        ...


def usable_tracks(cache: LatentCache, task: Task, *, split: str, num_frames: int) -> tuple[Sequence[CachedTrack], int]:
    """The split's tracks that hold a window, and how many do not. CacheError if none does."""
    tracks = cache.select(task, split=split)
    usable = [track for track in tracks if track.num_frames >= num_frames]
    if not usable:
        seconds = float(num_frames / cache.spec.frame_rate)
        raise CacheError(
            f"no track of the {split} split can be used for {task.name}",
            where=cache.origin,
            value=f"{len(tracks)} tracks with the task's streams, none as long as a window of {seconds:.2f} s",
            remedy="shorten window_seconds, or build the cache from more or longer tracks",
        )
    return usable, len(tracks) - len(usable)


class WindowLoader:
    """Windows of all of a task's streams out of a cache whose files are mapped: here, or copied here now from its URL.

    Every position of the split is equally likely in every batch.
    """

    def __init__(self, cache: LatentCache, task: Task, *, split: str, num_frames: int, seed: int) -> None:
        usable, self.too_short = usable_tracks(cache, task, split=split, num_frames=num_frames)
        self.split, self.num_tracks = split, len(usable)
        self._cache, self._task, self._num_frames = cache, task, num_frames
        positions = np.array([track.num_frames - num_frames + 1 for track in usable], dtype=np.int64)
        self.num_windows = int(positions.sum())
        self._draws = Draws(positions, seed=seed)
        cache.prepare(usable, task.streams)
        # (streams, tracks): what a position in the corpus is to be added to, in frames, for its place in memory
        addresses = np.stack([cache.addresses(usable, stream) for stream in task.streams])
        self._bases = addresses - self._draws.firsts * cache.spec.channels
        scales = [scale for stream in task.streams if (scale := cache.scales(usable, stream)) is not None]
        self._scales = torch.from_numpy(np.stack(scales)) if scales else None  # (streams, tracks, C)

    def batch(self, step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """Rank `rank`'s slice of global batch `step`: raw latents (batch_size / world_size, T, C) of every stream."""
        share = share_of(batch_size, world_size)
        mine = slice(rank * share, (rank + 1) * share)
        addresses, tracks = self._places(step, batch_size, mine)
        windows = self._cache.gather(addresses, num_frames=self._num_frames)  # (streams * B, T, C)
        if self._scales is not None:
            windows = windows.float().mul_(self._scales[:, tracks].view(-1, 1, windows.shape[-1]))
        if self._cache.is_cold:
            following, _ = self._places(step + 1, batch_size, mine)
            self._cache.read_ahead(following, num_frames=self._num_frames)  # while this one is learnt from
        return dict(zip(self._task.streams, windows.split(share), strict=True))

    def close(self) -> None:
        pass

    def _places(self, step: int, batch_size: int, mine: slice) -> tuple[np.ndarray, np.ndarray]:
        """Where this slice of a global batch's windows begin, (streams * B,), and the tracks they lie in, (B,)."""
        tracks, positions = (each[mine] for each in self._draws.positions(step, batch_size=batch_size))
        return (self._bases[:, tracks] + positions * self._cache.spec.channels).reshape(-1), tracks


def share_of(batch_size: int, world_size: int) -> int:
    """Windows per process; equal shares, so that the mean of the processes' gradients is the global batch's."""
    if batch_size % world_size:
        raise ConfigError(
            "the global batch does not divide among the processes",
            where="batch_size",
            value=f"{batch_size} windows, {world_size} processes",
            remedy=f"use a multiple of {world_size}, or another number of processes",
        )
    return batch_size // world_size


class ReadAhead:
    """The same batches, read by a thread while the device computes, in page-locked memory that copies asynchronously.

    With `depth` 0 a batch is read when it is asked for: on the CPU a thread has no idle time to use.
    """

    def __init__(
        self, loader: Windows, *, batch_size: int, rank: int, world_size: int, depth: int, steps: int, pin: bool
    ) -> None:
        self._loader, self._batch_size, self._rank, self._world_size = loader, batch_size, rank, world_size
        self._depth, self._steps, self._pin = depth, steps, pin
        self._pending: dict[int, Future[dict[str, Tensor]]] = {}
        self._reader = ThreadPoolExecutor(1) if depth else None

    def batch(self, step: int) -> dict[str, Tensor]:
        """This rank's slice of global batch `step`; errors of the reader come here."""
        if self._reader is None:
            return self._read(step)
        for ahead in range(step, min(self._steps, step + self._depth + 1)):
            if ahead not in self._pending:
                self._pending[ahead] = self._reader.submit(self._read, ahead)
        return self._pending.pop(step).result()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> dict[str, Tensor]:
        batch = self._loader.batch(step, batch_size=self._batch_size, rank=self._rank, world_size=self._world_size)
        return {name: windows.pin_memory() for name, windows in batch.items()} if self._pin else batch
