"""Defines `EncodedTrack`: the frames of all streams of one track, and its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from reencoder_pipeline.corpora.corpus import Track

Frames = NDArray[Any]
MEASURED = ("num_samples", "num_frames", "tasks", "bandwidth_hz", "side_mid_db", "level_db", "peak_db")
"""The fields that a track of a cache has too."""


@dataclass(frozen=True)
class EncodedTrack:
    """One track as it goes into a shard. `streams` holds (frames, channels) in the cache's precision, and for int8 also
    the scales, (1, channels)."""

    track: Track
    num_samples: int
    num_frames: int
    tasks: tuple[str, ...]
    bandwidth_hz: float | None  # None: unknown, for imported latents
    side_mid_db: float | None
    streams: Mapping[str, Frames]
    level_db: float | None = None
    peak_db: float | None = None
