"""Loads training windows of a corpus that fits no local disk, from a changing pool of shards in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from reencoder_pipeline.cache.address_range import gather
from reencoder_pipeline.cache.formats.int8 import INT8, scale_name
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.shard_frames import read_shard
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.stores.checked_reader import ObjectReader
from reencoder_pipeline.tasks import Task
from reencoder_trainer.windows.draws import draw_windows, share_of
from reencoder_trainer.windows.mapped_windows import WindowLoader, usable_tracks

AHEAD = 2  # shards that are fetched before they enter the pool


@lru_cache(maxsize=8)
def shard_order(num_shards: int, *, seed: int, epoch: int) -> np.ndarray:
    """(num_shards,): the order in which an epoch visits the shards, a pure function of (seed, epoch).

    It uses raw Philox words as `draw_windows` does, at another counter, so that the two draws are independent.
    """
    key, counter = np.array([seed, epoch], dtype=np.uint64), np.array([0, 0, 0, 1], dtype=np.uint64)
    order = np.argsort(np.random.Philox(key=key, counter=counter).random_raw(num_shards), kind="stable")
    order.flags.writeable = False
    return order


class PoolLoader:
    """Windows out of a pool of `pool_shards` shards in memory, which slides over the epochs' orders end to end.

    A turn is the number of windows that an average shard holds end to end. After each turn the oldest shard leaves the
    pool and the next one in order takes its place. The shards and windows of batch k follow from the index and
    (seed, k) alone, so a resumed run continues with the same batches as an uninterrupted run.

    Shuffling: the windows of a batch are drawn as in WindowLoader, every position of the pool equally likely; 32 shards
    of 25 minutes are 13 hours of audio. A shard stays for `pool_shards` turns, in which each of its frames is read once
    on average. In the next epoch it shares the pool with other shards. Over an epoch all positions are equally likely,
    up to the differences in size among the pools (about a per cent if shards are alike). If all shards fit the pool,
    the batches differ from WindowLoader's but are as well shuffled.

    Memory: `pool_shards` + 2 shards of the task's streams and the split's tracks (bwe, 64 channels, float16: 17 MB a
    shard), and up to 8 MB for each file that is being fetched. Every process fetches its own shards: a tar as a whole,
    a Zarr shard only in the task's streams. Each file is compared with its sha256 before a window is drawn from it.
    """

    def __init__(
        self, cache: LatentCache, task: Task, *, split: str, num_frames: int, seed: int, pool_shards: int
    ) -> None:
        usable, self.too_short = usable_tracks(cache, task, split=split, num_frames=num_frames)
        self.split, self.num_tracks = split, len(usable)
        self.num_windows = sum(track.num_frames - num_frames + 1 for track in usable)
        self._cache, self._task, self.num_frames, self._seed = cache, task, num_frames, seed
        self._reader = ObjectReader(cache.origin)
        keys, chosen = {track.shard for track in usable}, set(usable)
        self._shards = [shard for shard in cache.shards if shard.key in keys]
        self._chosen = [[n for n, track in enumerate(shard.tracks) if track in chosen] for shard in self._shards]
        self._lengths = [
            np.array([shard.tracks[number].num_frames for number in numbers], dtype=np.int64)
            for shard, numbers in zip(self._shards, self._chosen, strict=True)
        ]
        self._total_frames = sum(int(lengths.sum()) for lengths in self._lengths)
        self._pool_shards = min(pool_shards, len(self._shards))

        # A slot holds the usable tracks of one shard end to end, one stream behind the other.
        self._stream_values = max(int(lengths.sum()) for lengths in self._lengths) * cache.spec.channels
        num_slots = min(self._pool_shards + AHEAD, len(self._shards))
        self._slots = torch.empty(
            num_slots, len(task.streams) * self._stream_values, dtype=getattr(torch, cache.precision)
        )
        self._scales: dict[int, Tensor] = {}  # of int8, slot -> (streams, tracks, C)
        self._free = list(range(num_slots))
        self._held: dict[int, tuple[int, Future[None]]] = {}  # shard -> its slot, and when that is filled
        self._fetchers = ThreadPoolExecutor(min(4, num_slots), thread_name_prefix="shards")

    def batch(self, step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """Rank `rank`'s slice of global batch `step`: raw latents (batch_size / world_size, T, C) of every stream.

        CacheError if a shard cannot be fetched, ConfigError if a batch takes more frames than the pool holds. Not
        thread-safe.
        """
        share, turn = share_of(batch_size, world_size), self._turn(step, batch_size)
        pool = self._pool(turn)
        self._hold(pool, ahead=self._pool(turn + AHEAD))
        channels, slot_values = self._cache.spec.channels, self._slots.shape[1]
        positions = np.concatenate([self._lengths[number] - self.num_frames + 1 for number in pool])
        firsts = [np.cumsum(self._lengths[number]) - self._lengths[number] for number in pool]
        addresses = np.concatenate(
            [self._held[number][0] * slot_values + first * channels for number, first in zip(pool, firsts, strict=True)]
        )
        tracks, starts = draw_windows(positions, seed=self._seed, step=step, batch_size=batch_size)
        mine = slice(rank * share, (rank + 1) * share)
        places = addresses[tracks[mine]] + starts[mine] * channels
        streams = np.arange(len(self._task.streams))[:, None] * self._stream_values
        windows = gather(
            self._slots.view(-1),
            (streams + places).reshape(-1),
            num_frames=self.num_frames,
            channels=channels,
        )
        if self._scales:
            scales = torch.cat([self._scales[self._held[number][0]] for number in pool], dim=1)[:, tracks[mine]]
            windows = windows.float().mul_(scales.view(-1, 1, channels))
        return dict(zip(self._task.streams, windows.split(share), strict=True))

    def close(self) -> None:
        self._fetchers.shutdown(cancel_futures=True)

    def _turn(self, step: int, batch_size: int) -> int:
        """The number of shards that have left the pool before global batch `step`."""
        if self._pool_shards == len(self._shards):
            return 0
        frames = batch_size * self.num_frames * len(self._shards)
        turns_per_batch = frames / self._total_frames
        if turns_per_batch > self._pool_shards:
            raise ConfigError(
                "a batch takes more frames than the pool of shards holds",
                where="stream_shards",
                value=f"{self._pool_shards} shards; a batch is worth {turns_per_batch:.1f}",
                remedy=f"at least {int(turns_per_batch) + 1} shards, or smaller batches or windows",
            )
        return step * frames // self._total_frames

    def _pool(self, turn: int) -> list[int]:
        """The shards of a turn. Between two epochs the same shard may occur twice."""
        epoch, place = divmod(turn, len(self._shards))
        orders = [shard_order(len(self._shards), seed=self._seed, epoch=each) for each in (epoch, epoch + 1)]
        return np.concatenate(orders)[place : place + self._pool_shards].tolist()

    def _hold(self, pool: Sequence[int], *, ahead: Sequence[int]) -> None:
        """Release shards that are no longer needed, start fetching the next ones, and wait for those of the pool."""
        wanted = dict.fromkeys([*pool, *ahead])
        for number in [number for number in self._held if number not in wanted]:
            slot, filled = self._held.pop(number)
            if not filled.cancel():  # still being fetched, if steps were not requested in order
                wait([filled])
            self._free.append(slot)
        for number in wanted:
            if number not in self._held:
                slot = self._free.pop()
                self._held[number] = slot, self._fetchers.submit(self._fill, slot, number)
        for number in pool:
            slot, filled = self._held[number]
            if (error := filled.exception()) is not None:
                del self._held[number]  # the next request tries again
                self._free.append(slot)
                raise error

    def _fill(self, slot: int, number: int) -> None:
        frames = read_shard(self._reader, self._shards[number], self._cache.format, self._task.streams)
        for place, stream in enumerate(self._task.streams):
            joined = np.concatenate([frames[stream][track] for track in self._chosen[number]]).reshape(-1)
            first = place * self._stream_values
            self._slots[slot, first : first + len(joined)] = torch.from_numpy(joined)
        if self._cache.precision == INT8:
            names = [scale_name(stream) for stream in self._task.streams]
            scales = [np.concatenate([frames[name][track] for track in self._chosen[number]]) for name in names]
            self._scales[slot] = torch.from_numpy(np.stack(scales))


Windows = WindowLoader | PoolLoader
