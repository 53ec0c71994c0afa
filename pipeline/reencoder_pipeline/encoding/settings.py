"""Defines `EncodeSettings`: every setting that a track's frames depend on, besides its audio and the weights."""

from __future__ import annotations

from dataclasses import dataclass, fields

from reencoder_pipeline.config import CacheConfig


@dataclass(frozen=True)
class EncodeSettings:
    """How tracks are cut, encoded and stored; `CacheConfig` describes each of these.

    `precision` and `keep_bits` are those of stored frames. With `track_seconds`, only the middle of a track is encoded.
    `tasks` are those of every track; None: as measured.

    Example::

        encode_track(autoencoder, track, EncodeSettings.of(CacheConfig(streams=["mono"])))
    """

    streams: tuple[str, ...]
    precision: str
    keep_bits: int | None
    segment_seconds: float
    batch_segments: int
    track_seconds: float | None
    low_band_rate: int
    resampler: str
    tasks: tuple[str, ...] | None

    @classmethod
    def of(cls, config: CacheConfig) -> EncodeSettings:
        values = {field.name: getattr(config, field.name) for field in fields(cls)}
        tasks = None if config.tasks == "measured" else tuple(config.tasks)
        return cls(**{**values, "streams": tuple(config.streams), "tasks": tasks})
