"""What each storage precision costs: bytes, error of the latents, error of the sound decoded from them, and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.address_range import gather
from reencoder_pipeline.cache.formats.int8 import dequantised, quantised, scale_of
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.encoding.encode import encode_stream
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.inspection.source_tracks import draw_windows, settings_of, track_audio, tracks_with_sources

if TYPE_CHECKING:
    from torch import Tensor

    from reencoder_pipeline.autoencoder import Autoencoder


BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # the finest first
HOURS = 1000
SILENCE_DBFS = -60.0  # of the reference: below it, distances say nothing, and evaluation has none either
# A training batch of a second and a half each; a pool far larger than a processor's own memory.
WINDOWS, WINDOW_FRAMES, POOL_BYTES = 256, 60, 256 << 20
ROUNDS, BLOCK_SECONDS = 7, 0.15

Frames = NDArray[np.float32]
Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Excerpt:
    """Of one stream of a track: `latents` (T, C) that count as exact, int8's `scale` (C,) of the whole track, and what
    they were encoded from, (channels, samples) or None. Only frames `first` to `last` have context on both sides."""

    latents: Frames
    scale: NDArray[np.float32]
    audio: Waveform | None
    first: int
    last: int
    deviation: NDArray[np.float32]  # of the channels of the stream, over the cache
    is_stereo: bool


def precision_table(
    cache: LatentCache,
    autoencoder: Autoencoder,
    *,
    source: Path | None,
    excerpts: int,
    seconds: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """A row for every precision, measured on all streams of `excerpts` seeded windows of `seconds`.

    With `source`, what the cache was made from, the windows are encoded anew and float32 is exact. Without, the latents
    of the cache are: rows of a finer precision have None for their errors, and there is no original to compare with.
    Distances are STFT-D and mel-D, means over windows, streams and channels; None where all is silent. Speed is that of
    memory: windows gathered and made float32, as a share of float16's.
    """
    from reencoder_pipeline.audio.mel import mel_filterbanks

    banks = mel_filterbanks(cache.spec.sample_rate)
    exact = "float32" if source else cache.precision
    known = [name for name in BYTES if list(BYTES).index(name) >= list(BYTES).index(exact)]
    errors, decoded, original = ({name: [] for name in known} for _ in range(3))
    for excerpt in _excerpts(cache, autoencoder, source, excerpts, seconds, seed, progress):
        reference = _decode(autoencoder, excerpt, excerpt.latents)
        for name in known:
            stored = as_stored(excerpt.latents, name, scale=excerpt.scale)
            errors[name].append(((stored - excerpt.latents) / excerpt.deviation).astype(np.float64).ravel())
            estimate = reference if name == exact else _decode(autoencoder, excerpt, stored)
            decoded[name] += distances(estimate, reference, filterbanks=banks)
            if excerpt.audio is not None:
                original[name] += distances(estimate, excerpt.audio, filterbanks=banks)
    speeds = reading_speeds(cache.spec.channels, seed=seed)
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
                **_means(decoded.get(name, ()), "decoded"),
                **_means(original.get(name, ()), "original"),
                "windows_per_second": speeds[name][0],
                "read_share": speeds[name][1],
            }
        )
    return {
        "hours": HOURS,
        "streams": list(cache.streams),
        "exact": exact,
        "encoded_anew": source is not None,
        "excerpts": excerpts,
        "seconds": seconds,
        "seed": seed,
        "rows": rows,
    }


def report(table: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a person."""
    whence = "encoded anew" if table["encoded_anew"] else "of the cache itself (give --source to encode some anew)"
    yield (
        f"{table['excerpts']} excerpts of {table['seconds']:g} s, seed {table['seed']}, streams "
        f"{', '.join(table['streams'])}; exact: {table['exact']} latents {whence}"
    )
    head = ("", f"GB per {table['hours']:,} h", "error of latents", "decoded, to exact", "to the original", "reading")
    units = ("", "stream", "cache", "rms", "largest", "STFT-D", "mel-D", "STFT-D", "mel-D", "of float16")
    yield f"{head[0]:10}{head[1]:>18}{head[2]:>20}{head[3]:>20}{head[4]:>18}{head[5]:>12}"
    yield f"{units[0]:10}" + "".join(f"{unit:>{w}}" for unit, w in zip(units[1:], _WIDTHS, strict=True))
    for row in table["rows"]:
        cells = [
            *(f"{row[name]:.1f}" for name in ("gigabytes_stream", "gigabytes_cache")),
            *(_cell(row[name], ".2g") for name in ("latent_rms", "latent_largest")),
            *(_cell(row[f"decoded_{name}"], ".4f") for name in ("stft_d", "mel_d")),
            *(_cell(row[f"original_{name}"], ".4f") for name in ("stft_d", "mel_d")),
            f"{row['read_share']:.2f}",
        ]
        yield f"{row['precision']:10}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, _WIDTHS, strict=True))
    yield "errors of latents are in standard deviations of their channel; reading is from memory, made float32"
    if missing := [row["precision"] for row in table["rows"] if not row["can_be_built"]]:
        yield f"no precision of a cache: {', '.join(missing)}"


_WIDTHS = (9, 9, 10, 10, 10, 10, 9, 9, 12)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def as_stored(latents: Frames, precision: str, *, scale: NDArray[np.float32]) -> Frames:
    """(T, C) -> what is read back once they were stored so."""
    if precision == "int8":
        return dequantised(quantised(latents, scale), scale)
    import torch

    return torch.from_numpy(latents).to(getattr(torch, precision)).float().numpy()


def distances(estimate: Waveform, reference: Waveform, *, filterbanks: dict[int, Tensor]) -> list[tuple[float, float]]:
    """(channels, samples) both -> STFT-D and mel-D of every channel in which the reference is not silent.

    Those of the evaluation, which is upstairs; a test compares the two."""
    import torch

    from reencoder_pipeline.audio.mel import LOG_FLOOR, RESOLUTIONS, spectral_distance

    def magnitudes(audio: Tensor, n_fft: int, hop: int, length: int) -> Tensor:
        spectrum = torch.stft(audio, n_fft, hop, length, window=torch.hann_window(length), return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=LOG_FLOOR**2).sqrt()[None]

    found = []
    for pair in zip(torch.from_numpy(estimate), torch.from_numpy(reference), strict=True):
        if pair[1].double().square().mean() < 10 ** (SILENCE_DBFS / 10):
            continue
        spectral = [spectral_distance(*(magnitudes(audio, *size) for audio in pair)) for size in RESOLUTIONS[:3]]
        mel = spectral_distance(*(filterbanks[1024] @ magnitudes(audio, 1024, 256, 1024) for audio in pair))
        found.append((float(sum(spectral)) / len(spectral), float(mel)))
    return found


def reading_speeds(channels: int, *, seed: int) -> dict[str, tuple[float, float]]:
    """Precision -> windows a second, and that as a share of float16's: the medians over rounds of blocks in turns.

    Windows lie anywhere in a pool of equally many frames; int8's each have a scale.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    num_frames = max(2 * WINDOW_FRAMES, POOL_BYTES // (4 * channels))
    pool = torch.randn(num_frames * channels, generator=generator)
    scales = torch.rand(WINDOWS, 1, channels, generator=generator)
    pools = {name: (pool * 20 if name == "int8" else pool).to(getattr(torch, name)) for name in BYTES}
    firsts = torch.randint(num_frames - WINDOW_FRAMES, (1000, WINDOWS), generator=generator).numpy() * channels

    def block(name: str) -> float:
        begun, batches = time.perf_counter(), 0
        while (passed := time.perf_counter() - begun) < BLOCK_SECONDS or not batches:
            addresses = firsts[batches % len(firsts)]
            windows = gather(pools[name], addresses, num_frames=WINDOW_FRAMES, channels=channels).float()
            if name == "int8":
                windows *= scales
            batches += 1
        return batches * WINDOWS / passed

    for name in pools:
        block(name)
    rounds = [{name: block(name) for name in pools} for _ in range(ROUNDS)]
    return {
        name: (median(one[name] for one in rounds), median(one[name] / one["float16"] for one in rounds))
        for name in pools
    }


def its_autoencoder(cache: LatentCache, name: str | None) -> Autoencoder:
    """The one that made the cache: the one of this name, or one that ships with us."""
    from reencoder_pipeline.autoencoder import load_own_autoencoder

    return load_own_autoencoder(cache.spec, named=name, where=cache.origin)


def _excerpts(  # noqa: PLR0917, the table's own arguments
    cache: LatentCache,
    autoencoder: Autoencoder,
    source: Path | None,
    excerpts: int,
    seconds: float,
    seed: int,
    progress: Callable[[int, int], None],
) -> Iterator[Excerpt]:
    context, spec = autoencoder.context, cache.spec
    paths = None if source is None else tracks_with_sources(cache, source)[1]
    windows = draw_windows(
        [track for track in cache.tracks if paths is None or track.id in paths],
        length=spec.frames_in(seconds) + 2 * context,
        samples=excerpts,
        random=np.random.default_rng(seed),
    )
    settings, _ = settings_of(cache)
    done, total = 0, sum(stop - start for _, spans in windows for start, stop in spans)
    for track, spans in windows:
        audio = None if paths is None else track_audio(paths[track.id], track, cache, settings)
        for stream in cache.streams:
            cached, waveform = cache.read(track, stream), None
            scale, deviation = scale_of(cached), cache.statistics[stream].scale
            if audio is not None:
                waveform = make_stream(
                    stream, audio, sample_rate=spec.sample_rate, low_band_rate=cache.low_band["rate"],
                    resampler=cache.low_band["resampler"],
                )  # fmt: skip
            for start, stop in spans:
                first, last = context if start else 0, stop - start - (context if stop < track.num_frames else 0)
                if waveform is None:
                    latents, piece = cached[start:stop].astype(np.float32), None
                else:
                    given = waveform[:, start * spec.hop : stop * spec.hop]
                    latents = encode_stream(autoencoder, given, segment_frames=stop - start)
                    piece = given[:, first * spec.hop : last * spec.hop]
                yield Excerpt(latents, scale, piece, first, last, deviation, is_stereo=stream == "stereo")
        done += sum(stop - start for start, stop in spans)
        progress(done, total)


def _decode(autoencoder: Autoencoder, excerpt: Excerpt, latents: Frames) -> Waveform:
    """(T, C) -> (channels, samples) of the frames that have context, as long as the original where the track ends."""
    import torch

    with torch.inference_mode():
        audio = autoencoder.decode(torch.from_numpy(latents.T[None]))[0]  # (T, C) -> (1, C, T)
    if not excerpt.is_stereo:
        audio = audio.mean(dim=0, keepdim=True)
    hop = autoencoder.spec.hop
    kept = audio[:, excerpt.first * hop : excerpt.last * hop].numpy()
    return kept if excerpt.audio is None else kept[:, : excerpt.audio.shape[1]]


def _means(found: Sequence[tuple[float, float]], what: str) -> dict[str, float | None]:
    means = np.mean(found, axis=0).tolist() if len(found) else (None, None)
    return dict(zip((f"{what}_stft_d", f"{what}_mel_d"), means, strict=True))
