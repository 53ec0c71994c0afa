"""Checked reads: the first gather from a block of 1,024 frames compares the block with its checksum."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.zarr_shards import CHUNK_FRAMES
from reencoder_pipeline.errors import CacheError

if TYPE_CHECKING:
    from torch import Tensor

    from reencoder_pipeline.cache.index import Shard


class BlockChecks:
    """Knows which blocks of which streams are sound.

    A block is 1,024 frames of a shard's tracks joined end to end, as in the index's `blocks`, also where the tracks do
    not lie end to end in the file. Once all blocks were checked, a check is a table look-up.
    """

    def __init__(self, values: Tensor, *, channels: int) -> None:
        self._values, self._channels = values.numpy(), channels
        self._streams: list[tuple[Shard, str, NDArray[np.int64]]] = []
        self._bases: list[int] = []  # of each stream's blocks in `_sound`
        self._sound = np.zeros(0, dtype=bool)
        self._tracks = np.zeros((0, 3), dtype=np.int64)  # by address: address, frame in the shard, base

    def add(self, streams: Sequence[tuple[Shard, str, NDArray[np.int64]]]) -> None:
        """Add streams of shards, each with (tracks,) addresses: of frame 0 of each of the shard's tracks."""
        sound, tracks, base = [self._sound], [self._tracks], len(self._sound)
        for shard, stream, starts in streams:
            count = -(-shard.num_frames // CHUNK_FRAMES)
            if len(shard.blocks.get(stream, ())) != count:
                raise CacheError(
                    "the index has no checksums to check reads by", where=f"shard {shard.key}", value=stream,
                    remedy="read it unchecked, or build the cache again",
                )  # fmt: skip
            frames = [track.first_frame for track in shard.tracks]
            tracks.append(np.stack([starts, frames, np.full(len(frames), base)], axis=1))
            sound.append(np.zeros(count, dtype=bool))
            self._bases.append(base)
            base += count
        self._streams += streams
        self._sound, joined = np.concatenate(sound), np.concatenate(tracks)
        self._tracks = joined[np.argsort(joined[:, 0])]

    def require_sound(self, addresses: NDArray[np.int64], *, num_frames: int) -> None:
        """CacheError, which names the frames, if a block that these windows read is not what was written."""
        starts, first_frames, bases = self._tracks.T
        track = np.searchsorted(starts, addresses, side="right") - 1
        first = first_frames[track] + (addresses - starts[track]) // self._channels
        last_block = (first + num_frames - 1) // CHUNK_FRAMES
        for further in range(-(-(num_frames - 1) // CHUNK_FRAMES) + 1):  # as many as a window may touch
            blocks = bases[track] + np.minimum(first // CHUNK_FRAMES + further, last_block)
            for block in np.unique(blocks[~self._sound[blocks]]).tolist():
                self._check(block)
                self._sound[block] = True

    def _check(self, block: int) -> None:
        import google_crc32c

        position = bisect_right(self._bases, block) - 1
        shard, stream, starts = self._streams[position]
        number = block - self._bases[position]
        begin, end = number * CHUNK_FRAMES, min((number + 1) * CHUNK_FRAMES, shard.num_frames)
        checksum = 0
        for track, start in zip(shard.tracks, starts.tolist(), strict=True):
            first = max(begin - track.first_frame, 0)
            last = min(end - track.first_frame, track.num_frames)
            if first < last:
                frames = self._values[start + first * self._channels : start + last * self._channels]
                checksum = google_crc32c.extend(checksum, frames)
        if checksum != shard.blocks[stream][number]:
            raise CacheError(
                "frames of the cache are not what was written",
                where=f"shard {shard.key}",
                value=f"stream {stream}, frames {begin} to {end}",
                remedy="`reencoder-cache verify` finds all damage",
            )
