"""What a build will do: the corpus read, every file opened and digested, whole tracks packed into shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reencoder_pipeline.cache import FORMAT, canonical_digest
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpus import SPLITS, Track, assign_splits, file_digest, find_corpus, unit_hash
from reencoder_pipeline.discovery import LeftOut
from reencoder_pipeline.errors import AudioError, ConfigError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shard import Job, failure_row
from reencoder_pipeline.tasks import TASKS
from reencoder_pipeline.twins import across_splits

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


@dataclass(frozen=True)
class PlannedTrack:
    """A track whose file could be opened: its digest and its length in the autoencoder's samples, by its header."""

    track: Track
    sha256: str
    num_samples: int


@dataclass(frozen=True)
class Plan:
    """What a build will do: shards in order, and the files that are already known to be unusable.

    `num_unsuited` tracks are left out because their manifest says that they serve no task that these streams make.
    `left_out` says which files of the source are no tracks; `warnings` name copies of a recording in several splits.
    `licence` is that of the autoencoder's weights; `notes` say what is particular about latents that are made this way.
    """

    spec: LatentSpec
    licence: str
    notes: tuple[str, ...]
    jobs: tuple[Job, ...]
    failures: tuple[dict[str, str], ...]
    num_tracks: int
    num_unsuited: int
    num_frames: int
    left_out: LeftOut = field(default_factory=LeftOut)
    warnings: tuple[str, ...] = ()

    def num_bytes(self, config: CacheConfig) -> int:
        return self.num_frames * self.spec.channels * np.dtype(config.precision).itemsize * len(config.streams)


def plan_build(source: Path, config: CacheConfig) -> Plan:
    """Read the corpus, open and digest every file, and pack whole tracks into shards in corpus order."""
    from reencoder_pipeline.autoencoder import load_autoencoder

    autoencoder = load_autoencoder(config.autoencoder)
    spec = autoencoder.spec
    _require_streams(spec, config)
    source_files = find_corpus(source)
    corpus = assign_splits(source_files.tracks, valid_share=config.valid_share, test_share=config.test_share)
    tracks = [track for track in corpus if _is_suited(track, config)]
    with ThreadPoolExecutor() as pool:
        examined = list(pool.map(lambda track: _examine(track, spec.sample_rate, config.track_seconds), tracks))
    planned = [item for item in examined if isinstance(item, PlannedTrack)]
    if config.hours is not None:
        planned = take_hours(planned, config.hours, sample_rate=spec.sample_rate)
    jobs = tuple(_pack(planned, spec, config))
    return Plan(
        spec=spec,
        licence=autoencoder.licence,
        notes=_notes(autoencoder, config),
        jobs=jobs,
        failures=tuple(item for item in examined if isinstance(item, dict)),
        num_tracks=len(planned),
        num_unsuited=len(corpus) - len(tracks),
        num_frames=sum(job.num_frames for job in jobs),
        left_out=source_files.left_out,
        warnings=tuple(across_splits((item.track.id, item.track.split, item.sha256) for item in planned)),
    )


def remarks(plan: Plan) -> tuple[str, ...]:
    """What a person should know before encoding begins."""
    return (
        f"weights of {plan.spec.autoencoder}: {plan.licence}",
        *plan.notes,
        *plan.left_out.lines(),
        *(f"warning: {warning}" for warning in plan.warnings),
    )


def _notes(autoencoder: Autoencoder, config: CacheConfig) -> tuple[str, ...]:
    """What the index says of latents that are not those of the whole track."""
    if autoencoder.local:
        return ()
    return (
        f"{autoencoder.spec.autoencoder} sees all of the audio it is given at once: latents encoded in segments of "
        f"{config.segment_seconds:g} s (edges of {autoencoder.context} frames discarded) are not those of the whole "
        "track, and segment_seconds belongs to what they are made of",
    )


def _require_streams(spec: LatentSpec, config: CacheConfig) -> None:
    if spec.stereo != "joint" and "stereo" in config.streams:
        raise ConfigError(
            "the stream `stereo` is for autoencoders that encode both channels together",
            where="streams",
            value=f"{spec.autoencoder}, {spec.stereo}",
            remedy="take left and right instead, or the form `joint` where the autoencoder offers it",
        )


def take_hours(planned: Sequence[PlannedTrack], hours: float, *, sample_rate: int) -> list[PlannedTrack]:
    """About `hours` of whole tracks, of every split its share and at least one track, in corpus order.

    Tracks are taken by the hash of their id: the choice is the same wherever and in whatever order the corpus is read.
    """
    wanted = min(1.0, hours * 3600 * sample_rate / max(1, sum(item.num_samples for item in planned)))
    left = {split: wanted * sum(i.num_samples for i in planned if i.track.split == split) for split in SPLITS}
    taken = set()
    for item in sorted(planned, key=lambda item: unit_hash(item.track.id)):
        if item.track.split and left[item.track.split] > 0:
            left[item.track.split] -= item.num_samples
            taken.add(item.track.id)
    return [item for item in planned if item.track.id in taken]


def _is_suited(track: Track, config: CacheConfig) -> bool:
    if config.tasks != "measured":
        return True
    served = {task.name for task in TASKS.values() if set(task.streams) <= set(config.streams)}
    return track.tasks is None or not served or not served.isdisjoint(track.tasks)


def _examine(track: Track, sample_rate: int, track_seconds: float | None) -> PlannedTrack | dict[str, str]:
    from reencoder_pipeline.audio import audio_header, middle

    try:
        rate, num_samples = audio_header(track.path)
        digest = file_digest(track.path)
        if track.sha256 is not None and digest != track.sha256:
            raise AudioError(
                "is not the file its manifest describes", where=track.path, value=f"sha256 {digest}, not {track.sha256}"
            )
        used = middle(num_samples, rate, track_seconds)
        return PlannedTrack(track, digest, -(-(used.stop - used.start) * sample_rate // rate))
    except (AudioError, OSError) as error:
        return failure_row(track, error)


def _pack(planned: Sequence[PlannedTrack], spec: LatentSpec, config: CacheConfig) -> Iterator[Job]:
    """Whole tracks in corpus order. A shard closes, between half and twice `shard_frames`, at a track that is chosen by
    the hash of its id, so that a track more or less moves the ends of few shards: of those until the next such track
    that is far enough from the end before. Every frame is as likely to be followed by an end, whatever the tracks'
    lengths; shards are `shard_frames` long on average. The last one may be smaller."""
    half, members, frames = config.shard_frames / 2, [], 0
    made_with = canonical_digest([spec.to_dict(), settings(config)])
    for item in planned:
        its_frames = spec.num_frames(item.num_samples)
        members.append(item)
        frames += its_frames
        # Not the hash that chose the split: or the shards would end at tracks of the test split.
        chosen = unit_hash(f"end of a shard: {item.track.id}") < 1 - math.exp(-its_frames / half)
        if frames >= 4 * half or (frames >= half and chosen):
            yield _job(members, frames, made_with, config)
            members, frames = [], 0
    if members:
        yield _job(members, frames, made_with, config)


def _job(members: Sequence[PlannedTrack], frames: int, made_with: str, config: CacheConfig) -> Job:
    """A shard is identified by what it is made of, never by its position in a list."""
    tracks = tuple(replace(item.track, sha256=item.sha256) for item in members)
    recipes = tuple(_recipe(track, made_with, config) for track in tracks)
    rows = [[track.id, track.split, recipe] for track, recipe in zip(tracks, recipes, strict=True)]
    key = canonical_digest({"format": FORMAT, "tracks": rows})[:20]
    return Job(key=key, tracks=tracks, num_frames=frames, recipes=recipes)


def _recipe(track: Track, made_with: str, config: CacheConfig) -> str:
    """All that the frames and measurements of a track are made of. Its id and its split are not."""
    tasks = track.tasks if config.tasks == "measured" else None
    return canonical_digest([made_with, track.sha256, track.num_samples, tasks])[:20]


def settings(config: CacheConfig) -> dict[str, Any]:
    """The part of the configuration that the bytes of a shard depend on."""
    names = {
        "streams",
        "format",
        "precision",
        "segment_seconds",
        "batch_segments",
        "track_seconds",
        "low_band_rate",
        "resampler",
        "tasks",
    }
    return config.model_dump(include=names, exclude_none=True)
