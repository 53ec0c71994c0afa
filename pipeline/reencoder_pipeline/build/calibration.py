"""How fast this machine encodes a corpus: real excerpts, the real settings, as many processes as a build has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, Protocol

import numpy as np

from reencoder_pipeline.audio.read import middle, open_seekable
from reencoder_pipeline.audio.resampling import Audio, resample
from reencoder_pipeline.audio.survey import survey_audio
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.encode import encode_batch
from reencoder_pipeline.encoding.segments import plan_segments
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.errors import AudioError, CacheError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


READY_SECONDS = 900  # a worker that is not ready by then never will be
GOLDEN = 0.618034  # steps of it spread evenly, however many there will be


@dataclass(frozen=True)
class Work:
    """What one process did. `preparing`: reading, measuring and resampling, in seconds; `encoding`: what the frames of
    the excerpts cost within whole tracks, whose segments discard context; `elapsed`: as the clock saw it."""

    excerpts: int
    audio_seconds: float
    preparing: float
    encoding: float
    elapsed: float


@dataclass(frozen=True)
class Calibration:
    """Measured while `workers` processes of one thread ran side by side, ready after `start_seconds`. An excerpt counts
    once, whatever the number of its streams. `worker_rate` is hours of audio an hour of one worker among the others."""

    workers: int
    excerpts: int
    audio_seconds: float
    elapsed_seconds: float
    start_seconds: float
    preparing_share: float
    worker_rate: float


def calibrate(tracks: Sequence[Track], config: CacheConfig, *, seconds: float, workers: int, seed: int) -> Calibration:
    """Encode excerpts, one batch of segments each, of tracks in a seeded order, for `seconds` or until as much audio as
    there is has been through. An excerpt that was begun is finished, so a slow autoencoder takes longer.

    A single worker is this process itself. AudioError if nothing could be encoded, CacheError if a worker is killed.
    """
    order = np.random.default_rng(seed).permutation(len(tracks)).tolist()
    shares = [[tracks[place] for place in order[number::workers]] for number in range(min(workers, len(tracks)))]
    begun = time.perf_counter()
    works = _in_this_process(shares[0], config, seconds) if len(shares) == 1 else _in_workers(shares, config, seconds)
    wall = time.perf_counter() - begun
    works = [work for work in works if work.audio_seconds > 0]
    if not works:
        remedy = "`--no-calibrate` plans without it"
        raise AudioError("not one excerpt could be encoded", value=f"tried {tracks[order[0]].path}", remedy=remedy)
    preparing, encoding = sum(work.preparing for work in works), sum(work.encoding for work in works)
    return Calibration(
        workers=len(shares),
        excerpts=sum(work.excerpts for work in works),
        audio_seconds=sum(work.audio_seconds for work in works),
        elapsed_seconds=max(work.elapsed for work in works),
        start_seconds=wall - max(work.elapsed for work in works),
        preparing_share=preparing / (preparing + encoding),
        worker_rate=float(np.mean([work.audio_seconds / (work.preparing + work.encoding) for work in works])),
    )


def _in_this_process(tracks: Sequence[Track], config: CacheConfig, seconds: float) -> list[Work]:
    import torch

    from reencoder_pipeline.autoencoder import load_autoencoder

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [measure(load_autoencoder(config.autoencoder), tracks, config, seconds=seconds)]
    finally:
        torch.set_num_threads(threads)


def _in_workers(shares: Sequence[Sequence[Track]], config: CacheConfig, seconds: float) -> list[Work]:
    """All begin at once: what they measure is how they hinder each other."""
    context = get_context("spawn")
    pool = ProcessPoolExecutor(
        len(shares), mp_context=context, initializer=_start, initargs=(context.Barrier(len(shares)),)
    )
    try:
        futures = [pool.submit(_measure_with_the_others, share, config, seconds) for share in shares]
        return [future.result() for future in futures]
    except (BrokenProcessPool, BrokenBarrierError):
        remedy = "plan with fewer `workers` if memory was short, or with --no-calibrate"
        raise CacheError("a calibrating process was killed, perhaps for want of memory", remedy=remedy) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Barrier(Protocol):
    def wait(self, timeout: float | None = None) -> int: ...


_barrier: _Barrier


def _start(barrier: _Barrier) -> None:
    global _barrier  # noqa: PLW0603, a barrier reaches a process when it starts and no later
    _barrier = barrier


def _measure_with_the_others(tracks: Sequence[Track], config: CacheConfig, seconds: float) -> Work:
    import torch

    from reencoder_pipeline.autoencoder import load_autoencoder

    torch.set_num_threads(1)
    autoencoder = load_autoencoder(config.autoencoder)
    return measure(autoencoder, tracks, config, seconds=seconds, ready=lambda: _barrier.wait(READY_SECONDS))


def measure(
    autoencoder: Autoencoder,
    tracks: Sequence[Track],
    config: CacheConfig,
    *,
    seconds: float,
    ready: Callable[[], object] = lambda: None,
) -> Work:
    """Encode an excerpt of every track in turn, from another place in every round. A file that fails is passed over.

    A short one goes before, uncounted: imports and first allocations happen once. Then `ready` is called.
    """
    num_frames = autoencoder.spec.frames_in(config.segment_seconds) * config.batch_segments
    _encode(autoencoder, tracks[0], config, num_frames=min(num_frames, 2 * autoencoder.context + 1), place=0.0)
    ready()
    begun, done = time.perf_counter(), []
    for turn in count():
        available = 0.0
        for track in tracks:
            if (one := _encode(autoencoder, track, config, num_frames=num_frames, place=turn * GOLDEN % 1)) is not None:
                done.append(one)
                available += one.track_seconds
            if time.perf_counter() - begun >= seconds:
                available = 0.0
                break
        if sum(one.seconds for one in done) >= available:  # in time, or everything has been through
            break
    return Work(
        excerpts=len(done),
        audio_seconds=sum(one.seconds for one in done),
        preparing=sum(one.preparing for one in done),
        encoding=sum(one.encoding for one in done),
        elapsed=time.perf_counter() - begun,
    )


@dataclass(frozen=True)
class _Excerpt:
    seconds: float
    track_seconds: float
    preparing: float
    encoding: float


def _encode(
    autoencoder: Autoencoder, track: Track, config: CacheConfig, *, num_frames: int, place: float
) -> _Excerpt | None:
    """All streams of so much of a track, from `place` in [0, 1) of where it can start; None if that cannot be done."""
    spec, segment_frames = autoencoder.spec, autoencoder.spec.frames_in(config.segment_seconds)
    segment_samples = spec.num_samples(segment_frames)
    begun = time.perf_counter()
    try:
        audio, rate, track_samples = _read(track.path, spec.num_samples(num_frames) / spec.sample_rate, place)
        survey_audio(audio, sample_rate=rate)
        if rate != spec.sample_rate:
            audio = resample(audio, rate, spec.sample_rate)
        audio = audio[:, : spec.num_samples(num_frames)]  # a resampler may round up to a sample more
        streams = [
            make_stream(
                name,
                audio,
                sample_rate=spec.sample_rate,
                low_band_rate=config.low_band_rate,
                resampler=config.resampler,
            )
            for name in config.streams
        ]
        prepared = time.perf_counter()
        for stream in streams:
            pieces = np.split(stream, range(segment_samples, stream.shape[1], segment_samples), axis=1)
            size = config.batch_segments if stream.shape[1] % segment_samples == 0 else 1  # as `encode_tracks` does
            for first in range(0, len(pieces), size):
                encode_batch(autoencoder, pieces[first : first + size], size=size).astype(config.precision)
    except (AudioError, OSError, RuntimeError):  # soundfile's are RuntimeErrors; a build names them
        return None
    encoded = time.perf_counter()
    used = middle(track_samples, rate, config.track_seconds)
    whole = spec.num_frames(-(-(used.stop - used.start) * spec.sample_rate // rate))
    segments = plan_segments(whole, segment_frames=segment_frames, context=autoencoder.context)
    discarded = sum(segment.stop - segment.start for segment in segments) / whole
    return _Excerpt(
        seconds=audio.shape[1] / spec.sample_rate,
        track_seconds=(used.stop - used.start) / rate,
        preparing=prepared - begun,
        encoding=(encoded - prepared) * discarded,
    )


def _read(path: Path, seconds: float, place: float) -> tuple[Audio, int, int]:
    """(channels, samples) of an excerpt, its rate, and how many samples the whole file has."""
    with open_seekable(path) as file:
        length = min(file.frames, round(seconds * file.samplerate))
        file.seek(int(place * (file.frames - length)))
        samples = file.read(length, dtype="float32", always_2d=True)
        # (samples, channels) -> (channels, samples)
        return np.ascontiguousarray(samples.T, dtype=np.float32), file.samplerate, file.frames
