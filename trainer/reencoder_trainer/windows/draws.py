"""Draws the windows of batch k, a pure function of (seed, k)."""

from __future__ import annotations

import threading

import numpy as np

from reencoder_pipeline.errors import ConfigError


class Draws:
    """Positions of a corpus for every step, drawn with replacement.

    `positions` (tracks,) counts each track's window starts, at least 1. Every position of the corpus is equally likely.

    Philox is a keyed counter with the key (seed, step), so steps can be drawn in any order. numpy promises that its raw
    words stay the same between versions, but not the Generator methods built on them. The modulo's bias is below
    positions / 2^64. One generator is re-keyed for each step; constructing a new one takes ten times as long, about a
    tenth of a batch.
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
    """(track index, start frame) of each window of step `step`, each int64 (batch_size,), drawn as in `Draws`."""
    draws = Draws(positions, seed=seed)
    tracks, drawn = draws.positions(step, batch_size=batch_size)
    return tracks, drawn - draws.firsts[tracks]


def share_of(batch_size: int, world_size: int) -> int:
    """Windows per process. Shares are equal, so the mean of the processes' gradients is the global batch's."""
    if batch_size % world_size:
        raise ConfigError(
            "the global batch cannot be divided equally among the processes",
            where="batch_size",
            value=f"{batch_size} windows, {world_size} processes",
            remedy=f"use a multiple of {world_size}, or another number of processes",
        )
    return batch_size // world_size
