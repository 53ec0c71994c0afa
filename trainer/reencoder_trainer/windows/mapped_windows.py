"""Training windows: batch k of the global batch is a pure function of (seed, k).

There is no loader state: resuming is counting on, and any number of processes sees the same batches, each taking its
slice. A batch of memory-mapped windows costs one vectorised draw and one gather, far less than a step; worker processes
would only add a copy. Corpora that fit no local disk: streaming_windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.tasks import Task
from reencoder_trainer.windows.draws import Draws, share_of


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
