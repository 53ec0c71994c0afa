"""The commit record of a shard: what it holds, the sums its statistics are made from, and the files that failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache import Shard, shard_from_dict, shard_to_dict
from reencoder_pipeline.zarr_shards import CHUNK_FRAMES


@dataclass(frozen=True)
class Sums:
    """Of the frames of one stream: how many, and per channel their sum and sum of squares, (C,) each."""

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """`sums` is "train" or "all" -> stream -> Sums; `failures` are lines of failures.jsonl. `retry`: one of them was
    not the file's own fault (a disk that went away, no memory), so the next build makes the shard again.
    `recipes`: of each of the shard's tracks, a digest of all that its frames and measurements are made of; none where
    that is not known. `reused`, which is not stored: how many tracks were copied from other shards by the process that
    made this shard just now; None in a record that was read.
    """

    shard: Shard
    sums: dict[str, dict[str, Sums]]
    failures: tuple[dict[str, str], ...]
    retry: bool
    recipes: tuple[str, ...] = ()
    reused: int | None = None


def sum_frames(pieces: Iterable[NDArray[Any]], *, channels: int) -> Sums:
    """Sums over (frames, channels) arrays, in the order given."""
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for piece in pieces:
        wide = piece.astype(np.float64, order="C")  # numpy adds up in another order in another memory layout
        count += len(wide)
        total += wide.sum(axis=0)
        squares += np.square(wide).sum(axis=0)
    return Sums(count, total, squares)


def block_checksums(frames: NDArray[Any]) -> tuple[int, ...]:
    """crc32c of every 1,024 frames: an uncompressed Zarr shard notices no flipped bit by itself."""
    import google_crc32c

    return tuple(
        google_crc32c.value(np.ascontiguousarray(frames[start : start + CHUNK_FRAMES]).tobytes())
        for start in range(0, len(frames), CHUNK_FRAMES)
    )


def statistics(stream: str, records: Sequence[Record]) -> dict[str, list[float]]:
    """Mean and standard deviation per channel over the train split; over everything, where no track is for training."""
    trained = any(track.split == "train" for record in records for track in record.shard.tracks)
    chosen = [record.sums["train" if trained else "all"][stream] for record in records]
    count = sum(sums.count for sums in chosen)
    mean = np.sum([sums.total for sums in chosen], axis=0) / count
    variance = np.sum([sums.squares for sums in chosen], axis=0) / count - mean**2
    return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(variance, 1e-8)).tolist()}


def record_to_dict(record: Record) -> dict[str, Any]:
    sums = {
        which: {
            name: {"count": s.count, "total": s.total.tolist(), "squares": s.squares.tolist()}
            for name, s in streams.items()
        }
        for which, streams in record.sums.items()
    }
    return {
        "shard": shard_to_dict(record.shard),
        "sums": sums,
        "failures": list(record.failures),
        "retry": record.retry,
        "recipes": list(record.recipes),
    }


def record_from_dict(values: dict[str, Any]) -> Record:
    sums = {
        which: {name: Sums(s["count"], np.array(s["total"]), np.array(s["squares"])) for name, s in streams.items()}
        for which, streams in values["sums"].items()
    }
    shard, recipes = shard_from_dict(values["shard"]), tuple(values.get("recipes", ()))
    return Record(shard, sums, tuple(values["failures"]), values["retry"], recipes)
