"""Measures the latents of a cache: distributions, correlations over time, distances between streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.tasks import TASKS

WINDOW_FRAMES = 128
SMALLEST_STD = 1e-4  # the smallest value in an index; such a channel is constant
HISTOGRAM_EDGES = np.linspace(-8.0, 8.0, 161)  # in standard deviations

Values = NDArray[np.float64]


def measure(cache: LatentCache, *, windows: int, seed: int) -> dict[str, Any]:
    """Measure every stream's normalised latents (see `describe`), and how far each task's inputs are from its targets.

    The `windows` are drawn evenly over the frames of all tracks. `distance`: mean |target - input| per channel in
    standard deviations of the target, which a module has to add; predicting each channel's mean scores about 0.8.

    Example::

        measure(open_cache("cache"), windows=256, seed=0)["distance"]["bwe"]  # one number per channel
    """
    length = min(WINDOW_FRAMES, max(track.num_frames for track in cache.tracks))
    tracks = [track for track in cache.tracks if track.num_frames >= length]
    room = np.array([track.num_frames - length + 1 for track in tracks], dtype=np.float64)
    random = np.random.default_rng(seed)
    chosen = random.choice(len(tracks), size=windows, p=room / room.sum())
    firsts = (random.random(windows) * room[chosen]).astype(np.int64)
    picked = [tracks[number] for number in chosen]

    def sample(stream: str) -> Values:
        """(windows, length, C) normalised."""
        addresses = cache.addresses(picked, stream) + firsts * cache.spec.channels
        latents = cache.gather(addresses, num_frames=length).numpy().astype(np.float64)
        if (scales := cache.scales(picked, stream)) is not None:
            latents *= scales[:, None]
        return (latents - cache.statistics[stream].mean) / cache.statistics[stream].scale

    samples = {stream: sample(stream) for stream in cache.streams}
    distance = {}
    for name, task in TASKS.items():
        if set(task.streams) <= set(samples):
            gaps = [_distance(cache, samples, source, target) for source in task.inputs for target in task.targets]
            distance[name] = np.mean(gaps, axis=0).tolist()
    return {
        "windows": windows,
        "window_frames": length,
        "seed": seed,
        "streams": {stream: describe(latents) for stream, latents in samples.items()},
        "distance": distance,
    }


def describe(latents: Values) -> dict[str, Any]:
    """Describe latents (windows, frames, C) that the cache's statistics normalised: histogram, kurtosis, correlations.

    Correlations use the sample's own means and deviations."""
    flat = latents.reshape(-1, latents.shape[-1])
    centred = flat - flat.mean(axis=0)
    deviation = flat.std(axis=0)
    live = deviation > SMALLEST_STD
    scaled = centred / np.where(live, deviation, 1.0)
    correlation = scaled.T @ scaled / len(scaled)
    off_diagonal = np.abs(correlation[live][:, live])[~np.eye(int(live.sum()), dtype=bool)]
    counts, _ = np.histogram(flat, HISTOGRAM_EDGES)
    return {
        "values": flat.size,
        "histogram": counts.tolist(),
        "beyond_4": float((np.abs(flat) > 4).mean()),
        "excess_kurtosis": float((scaled[:, live] ** 4).mean() - 3) if live.any() else 0.0,
        "autocorrelation": _autocorrelation(scaled.reshape(latents.shape)[..., live]),
        "mean_absolute_correlation": float(off_diagonal.mean()) if off_diagonal.size else 0.0,
        "correlation": np.round(correlation, 4).tolist(),
    }


def _autocorrelation(scaled: Values) -> dict[str, list[float]]:
    """(windows, frames, live channels) of unit deviation -> per lag from 0: median, 10 % and 90 % of the channels."""
    lags = range(max(1, scaled.shape[1] // 2))
    if scaled.shape[-1] == 0:
        return {"median": [], "p10": [], "p90": []}
    by_lag = []
    for lag in lags:
        early, late = scaled[:, : scaled.shape[1] - lag], scaled[:, lag:]
        energy = np.sqrt(np.square(early).mean(axis=(0, 1)) * np.square(late).mean(axis=(0, 1)))
        by_lag.append((early * late).mean(axis=(0, 1)) / np.maximum(energy, SMALLEST_STD**2))
    median, low, high = np.quantile(np.array(by_lag), (0.5, 0.1, 0.9), axis=1).round(4)
    return {"median": median.tolist(), "p10": low.tolist(), "p90": high.tolist()}


def _distance(cache: LatentCache, samples: Mapping[str, Values], source: str, target: str) -> Values:
    """(C,): mean distance of the original latents, in standard deviations of the target."""
    ours, theirs = cache.statistics[source], cache.statistics[target]
    given = (samples[source] * ours.std + ours.mean - theirs.mean) / theirs.std
    return np.abs(samples[target] - given).mean(axis=(0, 1))
