"""What a cache of any size amounts to: shards, objects, bytes, requests, hours of machines, money. Arithmetic alone.

Everything that is assumed and not measured has a name here and can be replaced on the command line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from reencoder_pipeline.config import MOST_STEPS, CacheConfig, Config
from reencoder_pipeline.latents import LatentSpec

# s3fs sends a file of 100 MiB or more in parts of 50 MiB, with a request before and one after them.
PART_BYTES = 50 * 2**20
RENEWAL_SECONDS = 30  # how often a worker writes that it is still at work on its shard
OBJECTS_BESIDE_SHARDS = 3  # index.json, settings.json, failures.jsonl


class Assumptions(Config):
    """Prices in USD, those of a large provider in 2026, and how a training reads."""

    device_hour: float = Field(
        default=2.0, ge=0, le=1e9, description="one device, or one machine where the CPU encodes, for an hour"
    )
    gb_month: float = Field(default=0.023, ge=0, le=1e9, description="object storage")
    put_1000: float = Field(default=0.005, ge=0, le=1e9, description="1,000 writing requests")
    get_1000: float = Field(default=0.0004, ge=0, le=1e9, description="1,000 reading requests")
    steps: int = Field(default=250_000, ge=1, le=MOST_STEPS, description="of one training run")
    batch_size: int = Field(default=256, ge=1, le=10**6, description="windows a step")
    streams_read: int = Field(
        default=2, ge=1, le=100, description="that a training reads of each window; bwe: 2, m2s: 3"
    )


@dataclass(frozen=True)
class Scale:
    """`put_requests`: to write the cache. `get_requests`: a training that first copies the cache to its own disk;
    `window_requests`: one that fetches each window by its range. `seconds`: encoding, all devices side by side."""

    tracks: int
    hours: float
    frames: int
    shards: int
    objects: int
    bytes: int
    put_requests: int
    get_requests: int
    window_requests: int
    device_hours: float | None
    seconds: float | None
    usd: dict[str, float | None]


def scale(
    spec: LatentSpec,
    config: CacheConfig,
    *,
    num_tracks: int,
    num_frames: int,
    num_shards: int | None = None,
    worker_rate: float | None,
    workers: int,
    devices: int,
    start_seconds: float,
    assumptions: Assumptions,
) -> Scale:
    """`worker_rate` is hours of audio an hour of one of `workers` on one of `devices`; None where it is not known.

    Without `num_shards`, shards have about `shard_frames`.
    """
    hours = float(num_frames / spec.frame_rate / 3600)
    shards = num_shards or max(1, round(num_frames / config.shard_frames))
    size = num_frames * spec.channels * np.dtype(config.precision).itemsize * len(config.streams)
    data_objects = shards * (len(config.streams) if config.format == "zarr" else 1)
    objects = shards * objects_a_shard(config) + OBJECTS_BESIDE_SHARDS
    # Each object, each shard's claim, and the parts of what is too large for one request.
    puts = objects + shards + data_objects * (requests_to_write(size / data_objects) - 1)
    windows = assumptions.steps * assumptions.batch_size * assumptions.streams_read
    device_hours = seconds = None
    if worker_rate is not None:
        # A shard is one worker's: many devices do not make the last one faster.
        busy = max(hours / (worker_rate * min(workers * devices, shards)), hours / shards / worker_rate)
        seconds = start_seconds + 3600 * busy
        device_hours = devices * seconds / 3600
        puts += round(3600 * hours / worker_rate / RENEWAL_SECONDS)
    return Scale(
        tracks=num_tracks,
        hours=hours,
        frames=num_frames,
        shards=shards,
        objects=objects,
        bytes=size,
        put_requests=puts,
        get_requests=objects,
        window_requests=windows,
        device_hours=device_hours,
        seconds=seconds,
        usd={
            "encoding": None if device_hours is None else device_hours * assumptions.device_hour,
            "storage_a_month": size / 1e9 * assumptions.gb_month,
            "put_requests": puts / 1000 * assumptions.put_1000,
            "get_requests": objects / 1000 * assumptions.get_1000,
            "window_requests": windows / 1000 * assumptions.get_1000,
        },
    )


def objects_a_shard(config: CacheConfig) -> int:
    """zarr: data and metadata of every stream, metadata of the group, the commit record. A tar has its record alone."""
    return 2 * len(config.streams) + 2 if config.format == "zarr" else 2


def requests_to_write(size: float) -> int:
    return 1 if size < 2 * PART_BYTES else math.ceil(size / PART_BYTES) + 2
