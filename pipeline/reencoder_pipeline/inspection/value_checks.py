"""Checks that the frames of a cache are plausible latents: finite, not constant, and as the statistics say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.channel_sums import Sums, moments
from reencoder_pipeline.cache.index import CachedTrack, Shard, Statistics
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.inspection.finding import Finding
from reencoder_pipeline.inspection.outliers import far_deviations
from reencoder_pipeline.shards.record import Record, grouped_sums, statistics, sums_by_tasks

DRIFT = 1e-4  # in standard deviations; summing in another order changes 1e-12
STILL_SHARE = 0.9  # share of frames that may repeat the one before

Frames = NDArray[Any]


class ValueCheck:
    """Checks every shard in turn, then all of them together."""

    def __init__(self, cache: LatentCache) -> None:
        self._cache = cache
        self._records: list[Record] = []
        self._first: dict[str, Frames] = {}
        self._constant: dict[str, NDArray[np.bool_]] = {}
        self._deviations: dict[str, dict[str, float]] = {}  # stream -> track -> mean of its channels' deviations

    def add(self, shard: Shard, streams: Mapping[str, Frames]) -> Iterator[Finding]:
        """Check a shard. `streams`: (frames, channels) each, the shard's tracks in sequence."""
        by_track: dict[str, list[Frames]] = {}
        for stream, frames in streams.items():
            pieces = [(track, frames[track.first_frame :][: track.num_frames]) for track in shard.tracks]
            for track, piece in pieces:
                yield from _track_findings(shard, track, stream, piece)
                if np.isfinite(piece).all():
                    deviation = float(piece.std(axis=0, dtype=np.float64).mean())
                    self._deviations.setdefault(stream, {})[track.id] = deviation
            by_track[stream] = [piece for _, piece in pieces]
            first = self._first.setdefault(stream, bits(frames[:1]))
            alike = (bits(frames) == first).all(axis=0)
            self._constant[stream] = self._constant.get(stream, alike) & alike
        sums = grouped_sums(shard.tracks, by_track, channels=self._cache.spec.channels)
        self._records.append(Record(shard, sums, (), retry=False))

    def whole(self) -> Iterator[Finding]:
        """Check the cache after its last shard, if none is damaged: channels that never change, statistics that differ
        from the index, tracks with far larger latents than the others."""
        for stream, constant in self._constant.items():
            if constant.any():
                numbers = np.flatnonzero(constant).tolist()
                yield Finding(
                    "warning", "values", f"{stream}: {len(numbers)} channels never change, the first: {numbers[:8]}"
                )
            yield from self._drift(stream)
        yield from far_deviations(self._deviations)

    def _drift(self, stream: str) -> Iterator[Finding]:
        yield from _drift(stream, self._cache.statistics[stream], statistics(stream, self._records))
        found = {tuple(group["tasks"]): group["streams"] for group in sums_by_tasks(self._records) or ()}
        for tasks, streams in self._cache.sums:
            group = found.get(tasks)
            if group is None or group[stream]["count"] != streams[stream].count:
                problem = f"{stream}: the index's sums for {', '.join(tasks) or 'no task'} differ from its tracks' sums"
                yield Finding("damage", "statistics", problem)
            else:
                promised = Statistics.of(moments([streams[stream]]))
                yield from _drift(stream, promised, moments([Sums.from_dict(group[stream])]))


def _drift(stream: str, promised: Statistics, found: Mapping[str, Sequence[float]]) -> Iterator[Finding]:
    mean, std = np.array(found["mean"]), np.array(found["std"])
    shift = np.abs(mean - promised.mean) / promised.scale
    ratio = np.where((promised.std > 0) | (std > 0), np.abs(std / promised.scale - 1), 0.0)
    worst = int(np.argmax(np.nan_to_num(np.maximum(shift, ratio), nan=np.inf)))
    if not (shift[worst] <= DRIFT and ratio[worst] <= DRIFT):
        yield Finding(
            "damage",
            "statistics",
            f"{stream}: the index's mean and deviation differ from those of the frames; worst in channel {worst}: "
            f"{promised.mean[worst]:.6g} and {promised.std[worst]:.6g} in the index, "
            f"{mean[worst]:.6g} and {std[worst]:.6g} in the frames",
            measured={"largest_shift": float(shift[worst]), "largest_ratio": float(ratio[worst])},
        )


def _track_findings(shard: Shard, track: CachedTrack, stream: str, frames: Frames) -> Iterator[Finding]:
    bad = np.flatnonzero(~np.isfinite(frames).all(axis=1))
    if bad.size:
        problem = f"{track.id}, {stream}: {bad.size} frames are not finite, the first is frame {bad[0]}"
        yield Finding("damage", "values", problem, shard=shard.key)
    same = bits(frames)
    flat = np.flatnonzero((same == same[:, :1]).all(axis=1)) if frames.shape[1] > 1 else bad[:0]
    if flat.size:  # a lost chunk reads like this, and so does silence in an autoencoder without biases
        problem = f"{track.id}, {stream}: {flat.size} frames have one value in all channels, the first is {flat[0]}"
        yield Finding("warning", "values", problem, shard=shard.key)
    silent = track.bandwidth_hz == 0
    if len(frames) > 1 and not silent and not flat.size:
        still = float((same[1:] == same[:-1]).all(axis=1).mean())
        if still > STILL_SHARE:
            problem = f"{track.id}, {stream}: {still:.0%} of the frames repeat the one before"
            yield Finding("warning", "values", problem, shard=shard.key)


def bits(frames: Frames) -> Frames:
    """The values as integers of their bits, for comparisons: comparing float16 is slow."""
    return np.ascontiguousarray(frames).view(f"u{frames.dtype.itemsize}")
