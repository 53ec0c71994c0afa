"""Adds up frames per channel, and makes their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONSTANT = 1e-12  # of the mean square: what rounding leaves of the variance of a channel that never changes


@dataclass(frozen=True)
class Sums:
    """The number of frames of a stream, and per channel their sum and sum of squares, (C,) each."""

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        return {"count": self.count, "total": self.total.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sums:
        return cls(values["count"], np.array(values["total"]), np.array(values["squares"]))


def sum_frames(pieces: Iterable[NDArray[Any]], *, channels: int) -> Sums:
    """Sums over (frames, channels) arrays, in the order given."""
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for piece in pieces:
        wide = piece.astype(np.float64, order="C")  # numpy adds up in another order in another memory layout
        count += len(wide)
        total += wide.sum(axis=0)
        squares += np.square(wide).sum(axis=0)
    return Sums(count, total, squares)


def added(parts: Sequence[Sums]) -> Sums:
    """The sums over all frames of several parts, at least one, in the order given."""
    return Sums(
        sum(part.count for part in parts),
        np.sum([part.total for part in parts], axis=0),
        np.sum([part.squares for part in parts], axis=0),
    )


def moments(parts: Sequence[Sums]) -> dict[str, list[float]]:
    """Mean and standard deviation per channel over all frames of several parts; 0 for a channel that never changes."""
    sums = added(parts)
    mean, mean_square = sums.total / sums.count, sums.squares / sums.count
    variance = mean_square - mean**2
    changing = variance > CONSTANT * mean_square
    return {"mean": mean.tolist(), "std": np.sqrt(np.where(changing, variance, 0.0)).tolist()}
