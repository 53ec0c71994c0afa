"""Measures compressed shards: bytes, error of the latents, and seconds to open a cache and to read it once.

    python benchmarks/compression.py CACHE [--rounds 5] [--folder DIR]

CACHE holds exact latents: build it with `--set precision=float32`. Every row is the same cache, written with other
settings; sizes and seconds are ratios to float16 without compression, in the same run and with files in the page cache.
Errors are against the exact latents, in standard deviations of their channel, over all frames of all streams.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from rounds import Plan, clocked, interleaved, middle, ratio

from reencoder_pipeline.cache.formats import int8
from reencoder_pipeline.cache.formats.compression import Compression
from reencoder_pipeline.cache.index import INDEX, Shard, shard_to_dict
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cache.shard_frames import read_shard
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.shards.write_shard import commit_frames
from reencoder_pipeline.stores.checked_reader import ObjectReader

REFERENCE = "float16, none"
ZSTD, BLOSC = Compression("zstd", 3), Compression("blosc", 5)
ROWS: dict[str, tuple[str, Compression | None, int | None]] = {  # precision, compression, keep_bits
    REFERENCE: ("float16", None, None),
    "float16, zstd": ("float16", ZSTD, None),
    "float16, blosc": ("float16", BLOSC, None),
    "float16, 7 bits, blosc": ("float16", BLOSC, 7),
    "float16, 5 bits, blosc": ("float16", BLOSC, 5),
    "float16, 4 bits, blosc": ("float16", BLOSC, 4),
    "float16, 3 bits, blosc": ("float16", BLOSC, 3),
    "float16, 7 bits, zstd": ("float16", ZSTD, 7),
    "float16, 5 bits, zstd": ("float16", ZSTD, 5),
    "float16, 3 bits, zstd": ("float16", ZSTD, 3),
    "int8, none": ("int8", None, None),
    "int8, zstd": ("int8", ZSTD, None),
    "int8, blosc": ("int8", BLOSC, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds, in each of which every row is opened and read once"
    )
    parser.add_argument("--folder", type=Path, help="folder that keeps the caches; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in table(arguments.cache, arguments.folder or Path(folder), rounds=arguments.rounds):
            print(line)


def table(source: Path, folder: Path, *, rounds: int) -> Iterator[str]:
    """Lines of a Markdown table."""
    exact = open_cache(source)
    paths = {name: folder / f"row{number}" for number, name in enumerate(ROWS)}
    for name, path in paths.items():
        write(exact, path, *ROWS[name])
    sizes = {name: data_bytes(open_cache(path)) for name, path in paths.items()}
    plan, device = Plan(0.0, rounds, steps=1), torch.device("cpu")
    opened = interleaved({n: clocked(lambda p=p: prepared(p), device=device) for n, p in paths.items()}, plan)
    read = interleaved({n: clocked(lambda p=p: read_once(p), device=device) for n, p in paths.items()}, plan)
    frames, seconds = sum(track.num_frames for track in exact.tracks), middle(read[REFERENCE]).step
    yield (
        f"{len(exact.tracks)} tracks, {frames} frames, {len(exact.streams)} streams; {REFERENCE}: "
        f"{sizes[REFERENCE] / 1e6:.1f} MB, opened in {middle(opened[REFERENCE]).step:.3f} s, read in {seconds:.3f} s"
    )
    yield ""
    yield "| stored as | size | error, RMS | error, largest | open | open and read once |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, path in paths.items():
        rms, largest = errors(exact, open_cache(path))
        times = f"{ratio(opened[name], opened[REFERENCE]):.2f} | {ratio(read[name], read[REFERENCE]):.2f}"
        yield f"| {name} | {sizes[name] / sizes[REFERENCE]:.3f} | {rms:.2g} | {largest:.2g} | {times} |"


def write(
    exact: LatentCache, out: Path, precision: str, compression: Compression | None, keep_bits: int | None
) -> None:
    """Converts the cache to another storage of its latents."""
    form = replace(exact.format, precision=precision, compression=compression)
    shards: list[Shard] = []
    for shard in exact.shards:
        arrays = read_shard(ObjectReader(exact.origin), shard, exact.format, exact.streams)
        tracks = []
        for number, track in enumerate(shard.tracks):
            working = {
                name: frames[number].astype(int8.working_precision(precision)) for name, frames in arrays.items()
            }
            tracks.append(
                EncodedTrack(
                    Track(track.id, Path(), split=track.split, sha256=track.sha256),
                    track.num_samples, track.num_frames, track.tasks, track.bandwidth_hz, track.side_mid_db,
                    int8.stored(working, precision, keep_bits=keep_bits),
                )
            )  # fmt: skip
        shards.append(commit_frames(shard.key, tracks, out, form).shard)
    index = json.loads((exact.path / INDEX).read_text())
    index.pop("digest", None)
    index |= {"precision": precision, "shards": [shard_to_dict(shard) for shard in shards]}
    index |= {} if compression is None else {"compression": asdict(compression)}
    (out / INDEX).write_text(json.dumps(index))


def data_bytes(cache: LatentCache) -> int:
    return sum(size for shard in cache.shards for size, _ in shard.files.values())


def prepared(path: Path) -> LatentCache:
    """Opens the cache, with all streams mapped or decoded."""
    cache = open_cache(path)
    cache.prepare(cache.tracks, cache.streams)
    return cache


def read_once(path: Path) -> None:
    cache = prepared(path)
    for track in cache.tracks:
        for stream in cache.streams:
            cache.read(track, stream)


def errors(exact: LatentCache, cache: LatentCache) -> tuple[float, float]:
    """RMS and largest error of all values, in standard deviations of their channel."""
    squares, count, largest = 0.0, 0, 0.0
    for track in exact.tracks:
        for stream in exact.streams:
            differences = cache.read(track, stream).astype(np.float64) - exact.read(track, stream)
            differences /= exact.statistics[stream].scale
            squares, count = squares + float(np.square(differences).sum()), count + differences.size
            largest = max(largest, float(np.abs(differences).max()))
    return (squares / count) ** 0.5, largest


if __name__ == "__main__":
    main()
