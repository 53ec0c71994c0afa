"""Opens the windows of a cache for training or validation, mapped or pooled."""

from __future__ import annotations

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.tasks import Task
from reencoder_trainer.windows.mapped_windows import WindowLoader, Windows
from reencoder_trainer.windows.pooled_windows import PoolLoader


def open_windows(
    cache: LatentCache, task: Task, *, split: str, num_frames: int, seed: int, stream_shards: int | None
) -> Windows:
    """A loader over all windows of a split or, with `stream_shards`, over a pool of that many shards at a time."""
    if stream_shards is None:
        return WindowLoader(cache, task, split=split, num_frames=num_frames, seed=seed)
    return PoolLoader(cache, task, split=split, num_frames=num_frames, seed=seed, pool_shards=stream_shards)
