"""Loads training windows from memory-mapped shards; global batch k is a pure function of (seed, k).

There is no loader state: a resumed run continues with the next k, and any number of processes sees the same batches,
each taking its slice. A batch costs one vectorised draw and one gather, far less than a training step; worker processes
would only add a copy. For corpora that fit no local disk see pooled_windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.tasks import Task
from reencoder_trainer.windows.draws import Draws, share_of


def usable_tracks(cache: LatentCache, task: Task, *, split: str, num_frames: int) -> tuple[Sequence[CachedTrack], int]:
    """The split's tracks that hold a window, and the number of shorter ones. CacheError if no track holds one."""
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
    """Windows of all streams of a task, from a cache whose shard files are mapped into memory.

    `too_short` counts the split's tracks that are shorter than a window, which are not drawn. `num_windows` counts the
    different windows: one per possible start frame. Every position of the split is equally likely in every batch. For a
    cache at a URL the constructor first copies the shards it needs to the local disk.

    Example::

        cache = open_cache("out/cache")
        loader = WindowLoader(cache, TASKS["bwe"], split="train", num_frames=60, seed=0)
        batch = loader.batch(0, batch_size=256)  # {"low_band": (256, 60, 64), "mono": (256, 60, 64)}
    """

    def __init__(self, cache: LatentCache, task: Task, *, split: str, num_frames: int, seed: int) -> None:
        usable, self.too_short = usable_tracks(cache, task, split=split, num_frames=num_frames)
        self.split, self.num_tracks = split, len(usable)
        self._cache, self._task, self.num_frames = cache, task, num_frames
        positions = np.array([track.num_frames - num_frames + 1 for track in usable], dtype=np.int64)
        self.num_windows = int(positions.sum())
        self._draws = Draws(positions, seed=seed)
        cache.prepare(usable, task.streams)
        # (streams, tracks): a window at corpus position p begins at base + p * channels, counted in values
        addresses = np.stack([cache.addresses(usable, stream) for stream in task.streams])
        self._bases = addresses - self._draws.firsts * cache.spec.channels
        scales = [scale for stream in task.streams if (scale := cache.scales(usable, stream)) is not None]
        self._scales = torch.from_numpy(np.stack(scales)) if scales else None  # (streams, tracks, C)

    def batch(self, step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """Rank `rank`'s slice of global batch `step`: raw latents (batch_size / world_size, T, C) of every stream."""
        share = share_of(batch_size, world_size)
        mine = slice(rank * share, (rank + 1) * share)
        addresses, tracks = self._places(step, batch_size, mine)
        windows = self._cache.gather(addresses, num_frames=self.num_frames)  # (streams * B, T, C)
        if self._scales is not None:
            windows = windows.float().mul_(self._scales[:, tracks].view(-1, 1, windows.shape[-1]))
        if self._cache.is_cold:
            following, _ = self._places(step + 1, batch_size, mine)
            self._cache.read_ahead(following, num_frames=self.num_frames)  # during this batch's training step
        return dict(zip(self._task.streams, windows.split(share), strict=True))

    def close(self) -> None:
        """There is nothing to release; `PoolLoader` has threads."""

    def _places(self, step: int, batch_size: int, mine: slice) -> tuple[np.ndarray, np.ndarray]:
        """Addresses of the first frames of this slice's windows, (streams * B,), and the windows' tracks, (B,)."""
        tracks, positions = (each[mine] for each in self._draws.positions(step, batch_size=batch_size))
        return (self._bases[:, tracks] + positions * self._cache.spec.channels).reshape(-1), tracks
