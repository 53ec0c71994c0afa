"""Windows per second of the cache's gather, as a share of memcpy and beside one .npy per track, in one interleaved run.

    python benchmarks/loader.py CACHE [--frames 60] [--batch 256]

Page cache warm, one process. The rows draw the same independent random windows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reencoder_pipeline.cache import LatentCache, open_cache
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.windows import WindowLoader

SECONDS = 2.0
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    cache = open_cache(arguments.cache)
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            "memcpy": _memcpy(cache, arguments.batch, arguments.frames),
            f"our loader ({cache.storage})": _ours(cache, arguments.batch, arguments.frames),
            "one .npy per track, loaded per item": _npy(cache, arguments.batch, arguments.frames, Path(folder)),
        }
        rates: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(ROUNDS):  # interleaved, so that a busy neighbour meets every row
            for name, batch in rows.items():
                rates[name].append(_rate(batch, arguments.batch))
    memcpy = float(np.median(rates["memcpy"]))
    print(f"{arguments.frames} frames, batch {arguments.batch}, streams low_band and mono, {cache.precision}")
    for name, values in rates.items():
        print(f"{name:38} {np.median(values):12,.0f} windows/s   {np.median(values) / memcpy:8.4f} of memcpy")


def _rate(batch: Callable[[int], object], size: int) -> float:
    batch(0)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        batch(steps)
        steps += 1
    return steps * size / (time.perf_counter() - started)


def _memcpy(cache: LatentCache, batch: int, frames: int) -> Callable[[int], object]:
    """Copy as many bytes as a batch has, from pages of the cache in turn, into a buffer that is used again."""
    track = max(cache.tracks, key=lambda track: track.num_frames)
    source = torch.from_numpy(np.tile(cache.read(track, "mono").ravel(), 8))
    size = 2 * batch * frames * cache.spec.channels
    target = torch.empty(size, dtype=source.dtype)
    starts = np.random.default_rng(0).integers(max(1, len(source) - size), size=1024)
    source = source if len(source) > size else source.repeat(-(-size // len(source)) + 1)
    return lambda step: target.copy_(source[int(starts[step % 1024]) :][:size])


def _ours(cache: LatentCache, batch: int, frames: int) -> Callable[[int], object]:
    loader = WindowLoader(cache, get_task("bwe"), split="train", num_frames=frames, seed=0)
    return lambda step: loader.batch(step, batch_size=batch)


def _npy(cache: LatentCache, batch: int, frames: int, folder: Path) -> Callable[[int], object]:
    tracks = [track for track in cache.select(get_task("bwe"), split="train") if track.num_frames >= frames]
    for number, track in enumerate(tracks):
        for stream in ("low_band", "mono"):
            np.save(folder / f"{number}.{stream}.npy", cache.read(track, stream))
    rng = np.random.default_rng(0)

    def one_batch(_: int) -> object:
        windows = []
        for number in rng.integers(len(tracks), size=batch):
            start = int(rng.integers(tracks[number].num_frames - frames + 1))
            pair = [
                np.load(folder / f"{number}.{stream}.npy")[start : start + frames] for stream in ("low_band", "mono")
            ]
            windows.append(np.stack(pair))
        return torch.from_numpy(np.stack(windows))

    return one_batch


if __name__ == "__main__":
    main()
