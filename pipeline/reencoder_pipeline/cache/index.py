"""Shards, tracks and statistics of a cache, as its index holds them in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "reencoder-cache-1"
INDEX = "index.json"
OLD_FLOOR = float(np.sqrt(1e-8))


@dataclass(frozen=True)
class CachedTrack:
    """One track in a cache; its frames stand together in one shard, from `first_frame` of every stream there."""

    id: str
    split: str
    sha256: str
    num_samples: int
    num_frames: int
    tasks: tuple[str, ...]
    bandwidth_hz: float | None  # None: not known, of imported latents
    side_mid_db: float | None
    first_frame: int
    shard: str
    level_db: float | None = None  # mean power and largest sample of its audio, full scale = 0 dB; None: not known
    peak_db: float | None = None


@dataclass(frozen=True)
class Shard:
    """One unit of work and of commitment. `files` maps a path below the cache to (bytes, sha256); `blocks` holds the
    crc32c of every 1,024 frames of a stream."""

    key: str
    num_frames: int
    tracks: tuple[CachedTrack, ...]
    files: dict[str, tuple[int, str]]
    blocks: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Statistics:
    """Per channel of one stream, over the frames of the train split; both (C,) float32."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def of(cls, values: Mapping[str, Sequence[float]]) -> Statistics:
        """Read statistics from an index. A channel that never changes has deviation 0; older indexes say OLD_FLOOR."""
        std = np.asarray(values["std"], np.float64)
        return cls(np.asarray(values["mean"], np.float32), np.where(std == OLD_FLOOR, 0.0, std).astype(np.float32))

    @property
    def scale(self) -> NDArray[np.float32]:
        """Divisor for normalising: the deviation, and 1 for a channel that never changes."""
        return np.where(self.std > 0, self.std, np.float32(1))


def shard_to_dict(shard: Shard) -> dict[str, Any]:
    values = asdict(shard)
    for track in values["tracks"]:
        for name in ("level_db", "peak_db"):  # of shards made before these were measured, nothing changes
            if track[name] is None:
                del track[name]
    return values


def shard_from_dict(values: Mapping[str, Any]) -> Shard:
    """The inverse of shard_to_dict, for values that `index_schema` has checked."""
    return Shard(
        key=values["key"],
        num_frames=values["num_frames"],
        tracks=tuple(CachedTrack(**{**track, "tasks": tuple(track["tasks"])}) for track in values["tracks"]),
        files={name: (size, digest) for name, (size, digest) in values["files"].items()},
        blocks={stream: tuple(sums) for stream, sums in values["blocks"].items()},
    )
