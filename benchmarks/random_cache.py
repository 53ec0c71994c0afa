"""Writes a latent cache of noise with tracks as long as music, by the pipeline's own writers, for benchmarks.

    python benchmarks/random_cache.py OUT [--gigabytes 2] [--format zarr|webdataset] [--seed 0]

It is a complete cache that `reencoder-cache verify` accepts. Benchmarks neither compress nor learn, so the values are
standard normal numbers. OUT is complete or absent: it is renamed into place at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.tar_shards import sample_key, write_tar_shard
from reencoder_pipeline.cache.formats.zarr_shards import write_zarr_shard
from reencoder_pipeline.cache.index import FORMAT, INDEX, CachedTrack, Shard, shard_to_dict
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.record import Record, statistics, sum_frames
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import TASKS

Storage = Literal["zarr", "webdataset"]

SPEC = LatentSpec("noise", "0" * 64, sample_rate=44_100, hop=1024, channels=64)
STREAMS: tuple[str, ...] = ("low_band", "mono", "left", "right")
SHORTEST, LONGEST = 120, 360  # seconds of a track
SHARD_FRAMES = 65_536  # as in a build: a shard closes at the track that reaches them
BLOCK = 1 << 22  # values drawn at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the cache, all four streams")
    parser.add_argument("--format", choices=["zarr", "webdataset"], default="zarr")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    noise = draw_noise(gigabytes=arguments.gigabytes, seed=arguments.seed)
    print(write_random_cache(arguments.out, noise, storage=arguments.format))


@dataclass(frozen=True)
class Noise:
    """`frames` (streams, N, C) float16 are the tracks end to end; track i is frames[:, bounds[i] : bounds[i + 1]]."""

    frames: NDArray[np.float16]
    bounds: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(tracks,) frames."""
        return np.diff(self.bounds)

    def track(self, number: int) -> NDArray[np.float16]:
        """(streams, T, C), a view."""
        return self.frames[:, self.bounds[number] : self.bounds[number + 1]]


def draw_noise(*, gigabytes: float, seed: int) -> Noise:
    """At least one track, and whole tracks until `gigabytes` (10^9 bytes of all streams) are reached."""
    generator = np.random.Generator(np.random.SFC64(seed))
    wanted = gigabytes * 1e9 / (2 * SPEC.channels * len(STREAMS))
    bounds = [0]
    while bounds[-1] < wanted:
        bounds.append(bounds[-1] + int(generator.integers(SPEC.frames_in(SHORTEST), SPEC.frames_in(LONGEST))))
    frames = np.empty((len(STREAMS), bounds[-1], SPEC.channels), np.float16)
    flat = frames.reshape(-1)
    for start in range(0, len(flat), BLOCK):
        flat[start : start + BLOCK] = generator.standard_normal(min(BLOCK, len(flat) - start), np.float32)
    return Noise(frames, np.array(bounds, np.int64))


def write_random_cache(out: Path, noise: Noise, *, storage: Storage) -> Path:
    """Writes a cache of all streams, whose tracks are in the train split and suit every task, unless it exists."""
    if out.exists():
        return out
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "shards").mkdir(parents=True)
    records = [_write_shard(partial, noise, members, storage=storage) for members in pack(noise)]
    index = {
        "format": FORMAT,
        "storage": storage,
        "precision": "float16",
        "spec": SPEC.to_dict(),
        "streams": list(STREAMS),
        "low_band": {"rate": 22_050, "resampler": "none: noise"},
        "statistics": {name: statistics(name, records) for name in STREAMS},
        "shards": [shard_to_dict(record.shard) for record in records],
    }
    (partial / INDEX).write_text(json.dumps({**index, "digest": canonical_digest(index)}), encoding="utf-8")
    partial.rename(out)
    return out


def pack(noise: Noise) -> Iterator[range]:
    """Track numbers, shard by shard."""
    first = 0
    for number in range(len(noise.lengths)):
        if noise.bounds[number + 1] - noise.bounds[first] >= SHARD_FRAMES or number + 1 == len(noise.lengths):
            yield range(first, number + 1)
            first = number + 1


def track_id(number: int) -> str:
    return f"noise-{number:05d}"


def _write_shard(out: Path, noise: Noise, members: range, *, storage: Storage) -> Record:
    key = f"{members.start:05d}-{members.stop:05d}"
    span = slice(noise.bounds[members.start], noise.bounds[members.stop])
    streams = dict(zip(STREAMS, noise.frames[:, span], strict=True))
    path = out / "shards" / (key if storage == "zarr" else f"{key}.tar")
    if storage == "zarr":
        write_zarr_shard(path, streams)
    else:
        keys = [sample_key(position, track_id(number)) for position, number in enumerate(members)]
        write_tar_shard(path, keys, [dict(zip(STREAMS, noise.track(number), strict=True)) for number in members])
    files = {}
    for file in [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file()):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        files[file.relative_to(out).as_posix()] = (file.stat().st_size, digest)
    tracks = tuple(
        CachedTrack(
            id=track_id(number),
            split="train",
            sha256="0" * 64,
            num_samples=SPEC.num_samples(int(noise.lengths[number])),
            num_frames=int(noise.lengths[number]),
            tasks=tuple(TASKS),
            bandwidth_hz=22_050,
            side_mid_db=0.0,
            first_frame=int(noise.bounds[number] - noise.bounds[members.start]),
            shard=key,
        )
        for number in members
    )
    blocks = {name: block_checksums(frames) for name, frames in streams.items()}
    numbers = range(len(STREAMS))
    sums = {STREAMS[n]: sum_frames((noise.track(i)[n] for i in members), channels=SPEC.channels) for n in numbers}
    shard = Shard(key, int(span.stop - span.start), tracks, files, blocks)
    return Record(shard, {"train": sums}, failures=(), retry=False)


if __name__ == "__main__":
    main()
