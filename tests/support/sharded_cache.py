"""A small cache of many shards in either storage, with true digests and checksums, written without an autoencoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reencoder_pipeline.cache.formats.checksums import block_checksums
from reencoder_pipeline.cache.formats.tar_shards import sample_key, write_tar_shard
from reencoder_pipeline.cache.formats.zarr_shards import write_zarr_shard
from reencoder_pipeline.cache.index import CachedTrack, Shard, shard_to_dict
from reencoder_pipeline.stores.digests import canonical_digest
from tiny_cache import SPEC, STREAMS


def write_shards(
    path: Path, lengths: Sequence[Sequence[int]], *, storage: str = "zarr", valid: int | None = None, seed: int = 0
) -> Path:
    """One shard for each list of track lengths. In every stream channel 0 numbers the shard, 1 the track in it, 2 the
    frame, 3 the stream; the others are noise. Track `valid` of every shard is for validation."""
    generator = np.random.default_rng(seed)
    shards = [
        _write_shard(path, f"shard{number:03d}", tracks, storage=storage, valid=valid, generator=generator)
        for number, tracks in enumerate(lengths)
    ]
    moments = {"mean": [0.0] * SPEC.channels, "std": [1.0] * SPEC.channels}
    index = {
        "format": "reencoder-cache-1",
        "storage": storage,
        "precision": "float16",
        "spec": SPEC.to_dict(),
        "streams": list(STREAMS),
        "low_band": {"rate": 22050, "resampler": "soxr_vhq"},
        "statistics": dict.fromkeys(STREAMS, moments),
        "shards": [shard_to_dict(shard) for shard in shards],
    }
    index = json.loads(json.dumps(index))
    (path / "index.json").write_text(json.dumps({**index, "digest": canonical_digest(index)}))
    return path


def _write_shard(
    path: Path, key: str, lengths: Sequence[int], *, storage: str, valid: int | None, generator: np.random.Generator
) -> Shard:
    firsts = np.cumsum([0, *lengths[:-1]]).tolist()
    tracks = [
        {name: _frames(int(key[5:]), number, length, stream, generator) for stream, name in enumerate(STREAMS)}
        for number, length in enumerate(lengths)
    ]
    joined = {name: np.concatenate([track[name] for track in tracks]) for name in STREAMS}
    if storage == "zarr":
        write_zarr_shard(path / "shards" / key, joined)
        written = sorted(file for file in (path / "shards" / key).rglob("*") if file.is_file())
    else:
        written = [path / "shards" / f"{key}.tar"]
        written[0].parent.mkdir(parents=True, exist_ok=True)
        write_tar_shard(written[0], [sample_key(n, f"{key}-{n}") for n in range(len(lengths))], tracks)
    return Shard(
        key=key,
        num_frames=sum(lengths),
        tracks=tuple(
            CachedTrack(
                f"{key}-{number}",
                "valid" if number == valid else "train",
                "0" * 64,
                length * SPEC.hop,
                length,
                ("bwe", "m2s"),
                22_050,
                0.0,
                first,
                key,
            )
            for number, (length, first) in enumerate(zip(lengths, firsts, strict=True))
        ),
        files={
            file.relative_to(path).as_posix(): (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
            for file in written
        },
        blocks={name: block_checksums(frames) for name, frames in joined.items()},
    )


def _frames(shard: int, track: int, length: int, stream: int, generator: np.random.Generator) -> np.ndarray:
    frames = generator.standard_normal((length, SPEC.channels)).astype(np.float16)
    frames[:, 0], frames[:, 1], frames[:, 2], frames[:, 3] = shard, track, np.arange(length), stream
    return frames
