"""Compares stored types of latents: bytes, error of latents and of the sound decoded from them, and reading speed.

    python benchmarks/precision.py CACHE [--source SOURCE] [--autoencoder NAME] [--excerpts 8] [--seconds 5] [--json]

With SOURCE, the corpus of the cache, excerpts are encoded again and their float32 latents are exact. Without it the
latents of the cache count as exact: finer types then have no errors, and there is no original to compare with.
Distances are the evaluation's STFT-D and mel-D, means over excerpts, streams and channels that are not silent.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rounds import Plan, clocked, interleaved, ratio

from reencoder_eval.metrics.spectral import SILENCE_DBFS, level_dbfs, mel_distance, stft_distance
from reencoder_pipeline.autoencoder import Autoencoder, load_own_autoencoder
from reencoder_pipeline.cache.address_range import gather
from reencoder_pipeline.cache.formats.int8 import dequantised, quantised, scale_of
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.encoding.encode import encode_stream
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.inspection.source_tracks import draw_windows, settings_of, track_audio, tracks_with_sources

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # the finest first
HOURS = 1000
# A training batch of a second and a half each; a pool far larger than a processor's own memory.
WINDOWS, WINDOW_FRAMES, POOL_BYTES = 256, 60, 256 << 20
SPEED = Plan(seconds=0.15, rounds=7, steps=None)
HEADS = ((f"GB per {HOURS:,} h", 18), ("error of latents", 20), ("decoded, to exact", 20), ("to the original", 18),
         ("reading", 12))  # fmt: skip
COLUMNS = (  # key, unit, format, width
    ("gigabytes_stream", "stream", ".1f", 9),
    ("gigabytes_cache", "cache", ".1f", 9),
    ("latent_rms", "rms", ".2g", 10),
    ("latent_largest", "largest", ".2g", 10),
    ("decoded_stft_d", "STFT-D", ".4f", 10),
    ("decoded_mel_d", "mel-D", ".4f", 10),
    ("original_stft_d", "STFT-D", ".4f", 9),
    ("original_mel_d", "mel-D", ".4f", 9),
    ("read_share", "of float16", ".2f", 12),
)

Frames = NDArray[np.float32]
Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Excerpt:
    """One excerpt of a stream of a track.

    `latents` (T, C) count as exact; `scale` (C,) is int8's, of the whole track; `audio` (channels, samples) is what
    they were encoded from, or None. Only frames `first` to `last` have context on both sides. `deviation` (C,) is that
    of the stream's channels over the cache.
    """

    latents: Frames
    scale: Frames
    audio: Waveform | None
    first: int
    last: int
    deviation: Frames
    is_stereo: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache")
    parser.add_argument("--source", type=Path, help="corpus of the cache")
    parser.add_argument("--autoencoder", help="autoencoder of the cache, if it is not a shipped one")
    parser.add_argument("--excerpts", type=int, default=8, help="excerpts of every stream")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of an excerpt")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of excerpts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    cache = open_cache(given.cache)
    autoencoder = load_own_autoencoder(cache.spec, named=given.autoencoder, where=cache.origin)
    found = excerpts(
        cache, autoencoder, source=given.source, number=given.excerpts, seconds=given.seconds, seed=given.seed
    )
    exact = "float32" if given.source else cache.precision
    rows = precision_rows(cache, autoencoder, found, exact=exact, speeds=reading_speeds(cache.spec.channels))
    if given.json:
        print(json.dumps({"exact": exact, "streams": list(cache.streams), "rows": rows}))
        return
    whence = "encoded again from the source" if given.source else "of the cache itself (--source encodes them again)"
    print(f"{given.excerpts} excerpts of {given.seconds:g} s, seed {given.seed}, streams {', '.join(cache.streams)}")
    print(f"exact: {exact} latents {whence}")
    print("\n".join(table(rows)))


def precision_rows(
    cache: LatentCache,
    autoencoder: Autoencoder,
    found: Iterator[Excerpt],
    *,
    exact: str,
    speeds: Mapping[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    """A row for every type; errors and distances are None for types finer than `exact`, and where all is silent."""
    known = list(BYTES)[list(BYTES).index(exact) :]
    errors, decoded, original = (defaultdict[str, list[Any]](list) for _ in range(3))
    for excerpt in found:
        reference = decode(autoencoder, excerpt, excerpt.latents)
        for name in known:
            stored = as_stored(excerpt.latents, name, scale=excerpt.scale)
            errors[name].append(((stored - excerpt.latents) / excerpt.deviation).astype(np.float64).ravel())
            estimate = reference if name == exact else decode(autoencoder, excerpt, stored)
            decoded[name] += distances(estimate, reference, sample_rate=cache.spec.sample_rate)
            if excerpt.audio is not None:
                original[name] += distances(estimate, excerpt.audio, sample_rate=cache.spec.sample_rate)
    values = float(cache.spec.frame_rate) * 3600 * HOURS * cache.spec.channels
    rows = []
    for name, size in BYTES.items():
        wrong = np.concatenate(errors[name]) if name in known else None
        rows.append(
            {
                "precision": name,
                "can_be_built": name in get_args(CacheConfig.model_fields["precision"].annotation),
                "gigabytes_stream": values * size / 1e9,
                "gigabytes_cache": values * size * len(cache.streams) / 1e9,
                "latent_rms": None if wrong is None else float(np.sqrt(np.square(wrong).mean())),
                "latent_largest": None if wrong is None else float(np.abs(wrong).max()),
                **_means(decoded[name], "decoded"),
                **_means(original[name], "original"),
                "windows_per_second": speeds[name][0],
                "read_share": speeds[name][1],
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield " " * 10 + "".join(f"{head:>{width}}" for head, width in HEADS)
    yield " " * 10 + "".join(f"{unit:>{width}}" for _, unit, _, width in COLUMNS)
    for row in rows:
        cells = (("-" if row[key] is None else format(row[key], form), width) for key, _, form, width in COLUMNS)
        yield f"{row['precision']:10}" + "".join(f"{cell:>{width}}" for cell, width in cells)
    yield "errors of latents are in standard deviations of their channel; reading is from memory, made float32"
    if missing := [row["precision"] for row in rows if not row["can_be_built"]]:
        yield f"not a precision that a cache can have: {', '.join(missing)}"


def as_stored(latents: Frames, precision: str, *, scale: Frames) -> Frames:
    """(T, C) -> the values read back after storing them in this type."""
    if precision == "int8":
        return dequantised(quantised(latents, scale), scale)
    return torch.from_numpy(latents).to(getattr(torch, precision)).float().numpy()


def distances(estimate: Waveform, reference: Waveform, *, sample_rate: int) -> list[tuple[float, float]]:
    """(channels, samples) both -> STFT-D and mel-D of every channel in which the reference is not silent."""
    return [
        (stft_distance(x, y), mel_distance(x, y, sample_rate=sample_rate))
        for x, y in zip(estimate, reference, strict=True)
        if level_dbfs(y) >= SILENCE_DBFS
    ]


def reading_speeds(
    channels: int, *, pool_bytes: int = POOL_BYTES, plan: Plan = SPEED
) -> dict[str, tuple[float, float]]:
    """Type -> windows a second, and their ratio to float16's: medians over rounds in which types take turns.

    Windows lie anywhere in a pool of equally many frames; int8's each have a scale.
    """
    generator = torch.Generator().manual_seed(0)
    num_frames = max(2 * WINDOW_FRAMES, pool_bytes // (4 * channels))
    pool = torch.randn(num_frames * channels, generator=generator)
    scales = torch.rand(WINDOWS, 1, channels, generator=generator)
    firsts = torch.randint(num_frames - WINDOW_FRAMES, (1000, WINDOWS), generator=generator).numpy() * channels

    def reading(name: str) -> Callable[[], object]:
        stored, batches = (pool * 20 if name == "int8" else pool).to(getattr(torch, name)), iter(range(1 << 62))

        def read() -> torch.Tensor:
            addresses = firsts[next(batches) % len(firsts)]
            windows = gather(stored, addresses, num_frames=WINDOW_FRAMES, channels=channels).float()
            return windows.mul_(scales) if name == "int8" else windows

        return read

    blocks = {name: clocked(reading(name), device=torch.device("cpu")) for name in BYTES}
    timings = interleaved(blocks, plan)
    return {
        name: (WINDOWS / median(one.step for one in those), ratio(timings["float16"], those))
        for name, those in timings.items()
    }


def excerpts(
    cache: LatentCache, autoencoder: Autoencoder, *, source: Path | None, number: int, seconds: float, seed: int
) -> Iterator[Excerpt]:
    """All streams of `number` seeded windows of `seconds`, with the autoencoder's context on both sides."""
    context, spec = autoencoder.context, cache.spec
    paths = None if source is None else tracks_with_sources(cache, source)[1]
    windows = draw_windows(
        [track for track in cache.tracks if paths is None or track.id in paths],
        length=spec.frames_in(seconds) + 2 * context,
        samples=number,
        random=np.random.default_rng(seed),
    )
    settings, _ = settings_of(cache)
    for track, spans in windows:
        audio = (
            None if paths is None else track_audio(paths[track.id], track, cache, track_seconds=settings.track_seconds)
        )
        for stream in cache.streams:
            cached, waveform = cache.read(track, stream), None
            if audio is not None:
                waveform = make_stream(
                    stream, audio, sample_rate=spec.sample_rate, low_band_rate=cache.low_band["rate"],
                    resampler=cache.low_band["resampler"],
                )  # fmt: skip
            for start, stop in spans:
                first, last = context if start else 0, stop - start - (context if stop < track.num_frames else 0)
                latents, piece = cached[start:stop].astype(np.float32), None
                if waveform is not None:
                    given = waveform[:, start * spec.hop : stop * spec.hop]
                    latents = encode_stream(autoencoder, given, segment_frames=stop - start)
                    piece = given[:, first * spec.hop : last * spec.hop]
                deviation, is_stereo = cache.statistics[stream].scale, stream == "stereo"
                yield Excerpt(latents, scale_of(cached), piece, first, last, deviation, is_stereo)


def decode(autoencoder: Autoencoder, excerpt: Excerpt, latents: Frames) -> Waveform:
    """(T, C) -> (channels, samples) of the frames that have context, as long as the original where the track ends."""
    with torch.inference_mode():
        audio = autoencoder.decode(torch.from_numpy(latents.T[None]))[0]  # (T, C) -> (1, C, T)
    if not excerpt.is_stereo:
        audio = audio.mean(dim=0, keepdim=True)
    hop = autoencoder.spec.hop
    kept = audio[:, excerpt.first * hop : excerpt.last * hop].numpy()
    return kept if excerpt.audio is None else kept[:, : excerpt.audio.shape[1]]


def _means(found: Sequence[tuple[float, float]], what: str) -> dict[str, float | None]:
    means = np.mean(found, axis=0).tolist() if found else (None, None)
    return dict(zip((f"{what}_stft_d", f"{what}_mel_d"), means, strict=True))


if __name__ == "__main__":
    main()
