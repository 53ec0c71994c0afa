"""Plans a build: reads the corpus, opens and digests every file, and packs whole tracks into shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reencoder_pipeline.build.packing import PlannedTrack, pack, take_hours
from reencoder_pipeline.cache.layout import rounding_notes
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track, find_corpus
from reencoder_pipeline.corpora.discovery import LeftOut
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.corpora.twins import across_splits
from reencoder_pipeline.errors import AudioError, ConfigError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.job import Job, failure_row
from reencoder_pipeline.stores.digests import file_digest
from reencoder_pipeline.tasks import TASKS

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


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


def plan_build(source: Path, config: CacheConfig) -> Plan:
    """Read the corpus, open and digest every file, and pack whole tracks into shards in corpus order."""
    from reencoder_pipeline.autoencoder import load_autoencoder

    source_files = find_corpus(source)  # first: an autoencoder takes seconds to load, and a typing mistake none
    autoencoder = load_autoencoder(config.autoencoder)
    spec = autoencoder.spec
    _require_streams(spec, config)
    corpus = assign_splits(source_files.tracks, valid_share=config.valid_share, test_share=config.test_share)
    tracks = [track for track in corpus if _is_suited(track, config)]
    with ThreadPoolExecutor() as pool:
        examined = list(pool.map(lambda track: _examine(track, spec.sample_rate, config.track_seconds), tracks))
    planned = [item for item in examined if isinstance(item, PlannedTrack)]
    if config.hours is not None:
        planned = take_hours(planned, config.hours, sample_rate=spec.sample_rate)
    jobs = tuple(pack(planned, spec, config))
    return Plan(
        spec=spec,
        licence=autoencoder.licence,
        notes=(*_notes(autoencoder, config), *rounding_notes(config)),
        jobs=jobs,
        failures=tuple(item for item in examined if isinstance(item, dict)),
        num_tracks=len(planned),
        num_unsuited=len(corpus) - len(tracks),
        num_frames=sum(job.num_frames for job in jobs),
        left_out=source_files.left_out,
        warnings=tuple(across_splits((item.track.id, item.track.split, item.sha256) for item in planned)),
    )


def remarks(plan: Plan) -> tuple[str, ...]:
    """Messages that a user should see before encoding begins."""
    return (
        f"weights of {plan.spec.autoencoder}: {plan.licence}",
        *plan.notes,
        *plan.left_out.lines(),
        *(f"warning: {warning}" for warning in plan.warnings),
    )


def _notes(autoencoder: Autoencoder, config: CacheConfig) -> tuple[str, ...]:
    """Notes in the index about latents that differ from those of the whole track."""
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


def _is_suited(track: Track, config: CacheConfig) -> bool:
    if config.tasks != "measured":
        return True
    served = {task.name for task in TASKS.values() if set(task.streams) <= set(config.streams)}
    return track.tasks is None or not served or not served.isdisjoint(track.tasks)


def _examine(track: Track, sample_rate: int, track_seconds: float | None) -> PlannedTrack | dict[str, str]:
    from reencoder_pipeline.audio.read import audio_header, middle

    try:
        rate, num_samples = audio_header(track.path)
        digest = file_digest(track.path)
        if track.sha256 is not None and digest != track.sha256:
            raise AudioError(
                "this is not the file that its manifest describes", where=track.path,
                value=f"sha256 {digest}, not {track.sha256}", remedy="fetch the file again, or correct the manifest",
            )  # fmt: skip
        used = middle(num_samples, rate, track_seconds)
        return PlannedTrack(track, digest, -(-(used.stop - used.start) * sample_rate // rate))
    except (AudioError, OSError) as error:
        return failure_row(track.id, track.path, error)
