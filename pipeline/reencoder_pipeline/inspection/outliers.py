"""Finds tracks far above all others, in level or in the size of their latents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.inspection.finding import Finding

FEWEST = 5  # fewer tracks have no usual level
# Levels of music differ widely, and quiet music is still music. So only a track far above the median counts: by this
# many dB, and by this many times the usual distance. A file that was written without scaling is 90 dB above.
LEAST_DB = 20.0
LEAST_TIMES = 8.0
USUAL = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


def loud_tracks(tracks: Sequence[CachedTrack]) -> Iterator[Finding]:
    """Warn of tracks that are far louder than the others, by the levels in the index."""
    levels = {track.id: track.level_db for track in tracks if track.level_db is not None}
    for name, above in far_above(levels).items():
        problem = f"{name}: its level is {levels[name]:.1f} dBFS, {above:.0f} dB above the median of all tracks"
        yield Finding("warning", "level", problem, measured={"level_db": levels[name], "above_db": above})


def far_deviations(deviations: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """Warn of tracks with far larger latents than the others, once a track, for its worst stream.

    `deviations`: stream -> track -> mean standard deviation of its latents."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for stream, one in deviations.items():
        levels = {name: 20 * float(np.log10(value)) for name, value in one.items() if value > 0}
        for name, above in far_above(levels).items():
            found[name].append((above, stream))
    for name, streams in found.items():
        above, stream = max(streams)
        problem = f"{name}: the deviation of its latents is {10 ** (above / 20):.0f} times the median of all ({stream})"
        yield Finding("warning", "level", problem, measured={"above_db": above})


def far_above(levels: Mapping[str, float]) -> dict[str, float]:
    """name -> dB above the median, for the names that are far above it."""
    if len(levels) < FEWEST:
        return {}
    values = np.array(list(levels.values()))
    middle = float(np.median(values))
    distance = USUAL * float(np.median(np.abs(values - middle)))
    limit = max(LEAST_DB, LEAST_TIMES * distance)
    return {name: value - middle for name, value in levels.items() if value - middle > limit}
