"""Tracks encoded: each read, measured, and made into the frames of its streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpus import Track, file_digest
from reencoder_pipeline.errors import AudioError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder

Frames = NDArray[Any]


@dataclass(frozen=True)
class EncodedTrack:
    """One track as it goes into a shard; `streams` holds (frames, channels) in the cache's precision."""

    track: Track
    num_samples: int
    num_frames: int
    tasks: tuple[str, ...]
    bandwidth_hz: float
    side_mid_db: float
    streams: Mapping[str, Frames]


def encode_tracks(
    autoencoder: Autoencoder, tracks: Sequence[Track], config: CacheConfig
) -> Iterator[tuple[Track, EncodedTrack | Exception]]:
    """Every track in order: encoded, or why not. AudioError is its own fault; OSError and MemoryError may pass."""
    for track in tracks:
        try:
            _require_unchanged(track)
            yield track, encode_track(autoencoder, track, config)
        except (AudioError, OSError, MemoryError) as error:
            yield track, error


def _require_unchanged(track: Track) -> None:
    """OSError if this is no longer the file that the shard is named after."""
    if file_digest(track.path) != track.sha256:
        raise OSError(f"{track.path}: changed while the build was running; run the same command again")


def encode_track(autoencoder: Autoencoder, track: Track, config: CacheConfig) -> EncodedTrack:
    """Read, measure and encode one track. AudioError when its file or its latents cannot be used."""
    from reencoder_pipeline.audio import read_audio, resample
    from reencoder_pipeline.encode import encode_stream, make_stream
    from reencoder_pipeline.survey import suited_tasks, survey_audio

    spec = autoencoder.spec
    audio, rate = read_audio(track.path, num_samples=track.num_samples)
    survey = survey_audio(audio, sample_rate=rate)
    if rate != spec.sample_rate:
        audio = resample(audio, rate, spec.sample_rate)
    if audio.shape[1] < spec.hop:
        raise AudioError("shorter than one latent frame", where=track.path, value=f"{audio.shape[1]} samples")
    streams = {}
    for name in config.streams:
        waveform = make_stream(
            name, audio, sample_rate=spec.sample_rate, low_band_rate=config.low_band_rate, resampler=config.resampler
        )
        frames = encode_stream(autoencoder, waveform, segment_frames=spec.frames_in(config.segment_seconds))
        with np.errstate(over="ignore"):
            streams[name] = frames.astype(config.precision)
        if not np.isfinite(streams[name]).all():
            largest = float(np.abs(frames).max())
            raise AudioError(f"latents do not fit {config.precision}", where=track.path, value=largest)
    measured = suited_tasks(survey) if track.tasks is None else track.tasks
    return EncodedTrack(
        track=track,
        num_samples=audio.shape[1],
        num_frames=spec.num_frames(audio.shape[1]),
        tasks=measured if config.tasks == "measured" else tuple(config.tasks),
        bandwidth_hz=round(survey.bandwidth_hz),
        side_mid_db=round(survey.side_mid_db, 1),
        streams=streams,
    )
