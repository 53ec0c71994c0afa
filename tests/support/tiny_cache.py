"""A small real latent cache, written without audio or an autoencoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.zarr_shards import data_file, write_zarr_shard
from reencoder_pipeline.cache.index import CachedTrack, Shard, shard_to_dict
from reencoder_pipeline.latents import LatentSpec

SPEC = LatentSpec("tiny", "0" * 64, sample_rate=44100, hop=1024, channels=8)
STREAMS = ("mono", "low_band", "left", "right")


def write_cache(
    path: Path,
    *,
    train_frames: Sequence[int] = (90, 200, 61, 150, 120, 70),
    valid_frames: Sequence[int] = (150, 100),
    spec: LatentSpec = SPEC,
    seed: int = 0,
) -> Path:
    """Two shards, one per split.

    Channel 0 numbers the track and channel 1 the frame, alike in every stream. In the other channels `low_band` is
    noise and the other streams are a smooth function of it, which a module can learn.
    """
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((spec.channels - 2, spec.channels - 2)) / spec.channels**0.5
    shards, sums = [], {}
    for split, lengths in (("train", train_frames), ("valid", valid_frames)):
        if not lengths:
            continue
        places = [(track, frame) for track, length in enumerate(lengths) for frame in range(length)]
        noise = generator.standard_normal((len(places), spec.channels - 2))
        streams = {
            name: np.concatenate([places, noise if name == "low_band" else np.tanh(noise @ mixing) * 3 + 1], axis=1)
            for name in STREAMS
        }
        streams = {name: frames.astype(np.float16) for name, frames in streams.items()}
        write_zarr_shard(path / "shards" / split, streams)
        firsts = np.cumsum([0, *lengths[:-1]]).tolist()
        tracks = tuple(
            CachedTrack(
                id=f"{split}-{number}",
                split=split,
                sha256=hashlib.sha256(f"{split}-{number}".encode()).hexdigest(),
                num_samples=length * spec.hop,
                num_frames=length,
                tasks=("bwe", "m2s"),
                bandwidth_hz=22050,
                side_mid_db=0.0,
                first_frame=first,
                shard=split,
            )
            for number, (length, first) in enumerate(zip(lengths, firsts, strict=True))
        )
        files = {
            file.relative_to(path).as_posix(): (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
            for file in (data_file(path / "shards" / split, name) for name in STREAMS)
        }
        blocks = {name: block_checksums(frames) for name, frames in streams.items()}
        shards.append(Shard(split, len(places), tracks, files, blocks))
        sums.setdefault("statistics", {name: _moments(frames) for name, frames in streams.items()})
    index = {
        "format": "reencoder-cache-1",
        "storage": "zarr",
        "precision": "float16",
        "spec": spec.to_dict(),
        "streams": list(STREAMS),
        "low_band": {"rate": 22050, "resampler": "soxr_vhq"},
        "statistics": sums["statistics"],
        "shards": [shard_to_dict(shard) for shard in shards],
    }
    (path / "index.json").write_text(json.dumps(index))
    return path


def _moments(frames: np.ndarray) -> dict[str, list[float]]:
    wide = frames.astype(np.float64)
    return {"mean": wide.mean(axis=0).tolist(), "std": wide.std(axis=0).tolist()}
