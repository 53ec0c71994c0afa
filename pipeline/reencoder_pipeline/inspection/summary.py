"""Summarises a cache from its index, and writes the summary as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reencoder_pipeline.cache.index import CachedTrack
from reencoder_pipeline.cache.latent_cache import LatentCache


def summarise(cache: LatentCache) -> dict[str, Any]:
    """Summarise the index: kind of latents, hours by split and task, and distributions over tracks.

    Example::

        summarise(open_cache("cache"))["hours"]  # {"train/bwe": 1.25, ...}
    """
    hours: Counter[str] = Counter()
    for track in cache.tracks:
        for task in track.tasks or ("no task",):
            hours[f"{track.split}/{task}"] += track.num_frames
    size = sum(size for shard in cache.shards for size, _ in shard.files.values())
    return {
        "autoencoder": f"{cache.spec.autoencoder} ({cache.spec.weights[:12]})",
        "latents": f"{cache.spec.channels} channels at {float(cache.spec.frame_rate):.2f} Hz, {cache.precision}",
        "stereo": cache.spec.stereo,
        "streams": ", ".join(cache.streams),
        "low_band": f"{cache.low_band['rate']} Hz by {cache.low_band['resampler']}",
        "storage": f"{cache.storage}{_compression(cache)}, {len(cache.shards)} shards, {size} bytes",
        "tracks": dict(Counter(track.split for track in cache.tracks)),
        "hours": {name: round(float(n / cache.spec.frame_rate) / 3600, 3) for name, n in sorted(hours.items())},
        "track_seconds": spread(seconds_of(cache)),
        "bandwidth_hz": spread(track.bandwidth_hz for track in cache.tracks),
        "side_mid_db": spread(track.side_mid_db for track in cache.tracks),
        "level_db": spread(track.level_db for track in cache.tracks),
        "digest": cache.digest,
        **({"notes": "; ".join(cache.notes)} if cache.notes else {}),
        "statistics": {
            name: {"mean": one.mean.tolist(), "std": one.std.tolist()} for name, one in cache.statistics.items()
        },
    }


def _compression(cache: LatentCache) -> str:
    compression = cache.format.compression
    return "" if compression is None else f" ({compression.codec}, level {compression.level})"


def report(summary: Mapping[str, Any], tracks: Sequence[CachedTrack] = (), *, frame_rate: float = 1.0) -> Iterator[str]:
    """Lines of text for `summarise`, for `measure` under the key "measured", and for every track given."""
    for name, value in summary.items():
        if name == "statistics":
            means, stds = ([x for one in value.values() for x in one[key]] for key in ("mean", "std"))
            yield f"channel means: {min(means):.3f} to {max(means):.3f}; deviations: {min(stds):.3f} to {max(stds):.3f}"
        elif name == "measured":
            yield from _measured_lines(value)
        elif isinstance(value, dict):
            if value:
                yield f"{name.replace('_', ' ')}: " + ", ".join(f"{key} {number:g}" for key, number in value.items())
        else:
            yield f"{name.replace('_', ' ')}: {value}"
    for track in tracks:
        survey = "bandwidth and width unknown"  # for imported latents
        if track.bandwidth_hz is not None and track.side_mid_db is not None:
            survey = f"{track.bandwidth_hz:6.0f} Hz  side/mid {track.side_mid_db:6.1f} dB"
        if track.level_db is not None:
            survey += f"  level {track.level_db:6.1f} dBFS"
        if track.peak_db is not None:
            survey += f"  peak {track.peak_db:+5.1f} dBFS"
        seconds = track.num_frames / frame_rate
        yield f"{track.split:5}  {seconds:7.1f} s  {survey}  {','.join(track.tasks) or '-':7}  {track.id}"


def _measured_lines(measured: Mapping[str, Any]) -> Iterator[str]:
    yield f"measured on {measured['windows']} windows of {measured['window_frames']} frames, seed {measured['seed']}:"
    for stream, one in measured["streams"].items():
        yield (
            f"  {stream}: beyond 4 deviations {one['beyond_4']:.2g}, excess kurtosis {one['excess_kurtosis']:.2f}, "
            f"correlation with the next frame {_middle(one['autocorrelation'], 1):.2f}, "
            f"between channels {one['mean_absolute_correlation']:.3f}"
        )
    for task, channels in measured["distance"].items():
        mean = float(np.mean(channels))
        yield f"  {task}: inputs lie {mean:.2f} deviations from their targets, at most {max(channels):.2f}"


def _middle(autocorrelation: Mapping[str, Sequence[float]], lag: int) -> float:
    return autocorrelation["median"][lag] if len(autocorrelation["median"]) > lag else float("nan")


def spread(values: Iterable[float | None]) -> dict[str, float]:
    """Quantiles of the known values; {} if there are none."""
    array = np.array([value for value in values if value is not None], dtype=np.float64)
    if array.size == 0:
        return {}
    names, shares = ("least", "p10", "median", "p90", "most"), (0, 0.1, 0.5, 0.9, 1)
    return {name: round(float(value), 2) for name, value in zip(names, np.quantile(array, shares), strict=True)}


def seconds_of(cache: LatentCache) -> list[float]:
    return [float(track.num_frames / cache.spec.frame_rate) for track in cache.tracks]
