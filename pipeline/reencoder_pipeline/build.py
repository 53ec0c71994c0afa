"""Build a latent cache: plan shards, encode the missing ones, commit each, write the index last."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reencoder_pipeline.cache import FORMAT, INDEX, Shard, canonical_digest, shard_to_dict
from reencoder_pipeline.commit import build_lock, naming_a_full_disk, read_record, sweep
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpus import SPLITS, Track, assign_splits, file_digest, read_corpus, unit_hash
from reencoder_pipeline.durable import write_text
from reencoder_pipeline.errors import AudioError, CacheError, ConfigError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.record import Record, statistics
from reencoder_pipeline.shard import Job, failure_row
from reencoder_pipeline.tasks import TASKS
from reencoder_pipeline.workers import run_jobs

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

    def num_bytes(self, config: CacheConfig) -> int:
        return self.num_frames * self.spec.channels * np.dtype(config.precision).itemsize * len(config.streams)


@dataclass(frozen=True)
class BuildResult:
    """What was done: shards newly encoded and shards kept, tracks in the cache, and the quarantine."""

    path: Path
    built: int
    kept: int
    num_tracks: int
    num_frames: int
    failures: tuple[dict[str, str], ...]


Progress = Callable[[int, int], None]  # frames done, frames in all
Say = Callable[[str], None]


def build_cache(
    source: Path,
    out: Path,
    config: CacheConfig,
    *,
    progress: Progress,
    workers: int,
    say: Say = lambda message: None,
) -> BuildResult:
    """Encode a corpus into `out`. Running the same command again goes on where the last run stopped.

    What a cache holds depends on the corpus, the configuration and the weights alone. Bad files are listed in
    failures.jsonl and left out; nothing replaces them. `say` is told the licence of the weights, and every note that
    goes into the index. CacheError: another build runs there, `out` was built with other
    settings, or the disk is full.
    """
    with build_lock(out), naming_a_full_disk(out):
        plan = plan_build(source, config)
        for line in remarks(plan):
            say(line)
        _require_settings(out, plan.spec, config)
        sweep(out)
        records = {job.key: record for job in plan.jobs if (record := read_record(out, job.key)) and not record.retry}
        missing = [job for job in plan.jobs if job.key not in records]
        done = plan.num_frames - sum(job.num_frames for job in missing)
        progress(done, plan.num_frames)
        for record in run_jobs(missing, out, config, workers=workers):
            records[record.shard.key] = record
            done += next(job.num_frames for job in missing if job.key == record.shard.key)
            progress(done, plan.num_frames)

        ordered = [records[job.key] for job in plan.jobs]
        failures = plan.failures + tuple(failure for record in ordered for failure in record.failures)
        write_text(out / "failures.jsonl", "".join(json.dumps(failure) + "\n" for failure in failures))
        shards = [record.shard for record in ordered if record.shard.tracks]
        if not shards:
            unsuited = f"{plan.num_unsuited} tracks that suit no task of these streams, by their manifest"
            first = f", the first: {failures[0]['error']}" if failures else ""
            value = f"{unsuited}; {len(failures)} failures{first}"
            raise CacheError("not one track could be encoded", where=source, value=value)
        index = _index(plan, config, shards, ordered)
        write_text(out / INDEX, json.dumps({**index, "digest": canonical_digest(index)}, indent=1))
        sweep(out, keep={job.key for job in plan.jobs})
    return BuildResult(
        path=out,
        built=len(missing),
        kept=len(plan.jobs) - len(missing),
        num_tracks=sum(len(shard.tracks) for shard in shards),
        num_frames=sum(shard.num_frames for shard in shards),
        failures=failures,
    )


def plan_build(source: Path, config: CacheConfig) -> Plan:
    """Read the corpus, open and digest every file, and pack whole tracks into shards in corpus order."""
    from reencoder_pipeline.autoencoder import load_autoencoder

    autoencoder = load_autoencoder(config.autoencoder)
    spec = autoencoder.spec
    _require_streams(spec, config)
    corpus = assign_splits(read_corpus(source), valid_share=config.valid_share, test_share=config.test_share)
    tracks = [track for track in corpus if _is_suited(track, config)]
    with ThreadPoolExecutor() as pool:
        examined = list(pool.map(lambda track: _examine(track, spec.sample_rate), tracks))
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
    )


def remarks(plan: Plan) -> tuple[str, ...]:
    """What a person should know before encoding begins."""
    return (f"weights of {plan.spec.autoencoder}: {plan.licence}", *plan.notes)


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


def _examine(track: Track, sample_rate: int) -> PlannedTrack | dict[str, str]:
    from reencoder_pipeline.audio import audio_header

    try:
        rate, num_samples = audio_header(track.path)
        digest = file_digest(track.path)
        if track.sha256 is not None and digest != track.sha256:
            raise AudioError(
                "is not the file its manifest describes", where=track.path, value=f"sha256 {digest}, not {track.sha256}"
            )
        return PlannedTrack(track, digest, -(-num_samples * sample_rate // rate))
    except (AudioError, OSError) as error:
        return failure_row(track, error)


def _pack(planned: Sequence[PlannedTrack], spec: LatentSpec, config: CacheConfig) -> list[Job]:
    jobs, members, frames = [], [], 0
    for item in planned:
        members.append(item)
        frames += spec.num_frames(item.num_samples)
        if frames >= config.shard_frames:
            jobs.append(_job(members, frames, spec, config))
            members, frames = [], 0
    if members:
        jobs.append(_job(members, frames, spec, config))
    return jobs


def _job(members: Sequence[PlannedTrack], frames: int, spec: LatentSpec, config: CacheConfig) -> Job:
    """A shard is identified by what it is made of, never by its position in a list."""
    tracks = tuple(replace(item.track, sha256=item.sha256) for item in members)
    made_of = {
        "format": FORMAT,
        "spec": spec.to_dict(),
        "settings": _settings(config),
        "tracks": [
            [t.id, t.sha256, t.num_samples, t.split, t.tasks if config.tasks == "measured" else None] for t in tracks
        ],
    }
    return Job(key=canonical_digest(made_of)[:20], tracks=tracks, num_frames=frames)


def _settings(config: CacheConfig) -> dict[str, Any]:
    """The part of the configuration that the bytes of a shard depend on."""
    names = ("streams", "format", "precision", "segment_seconds", "low_band_rate", "resampler", "tasks")
    return {name: getattr(config, name) for name in names}


def _require_settings(out: Path, spec: LatentSpec, config: CacheConfig) -> None:
    """A cache never mixes autoencoders or settings: what was begun in `out` must be what is asked for now."""
    file = out / "settings.json"
    now = json.loads(json.dumps({**_settings(config), "autoencoder": spec.autoencoder, "weights": spec.weights}))
    if not file.exists():
        write_text(file, json.dumps(now, indent=1))
        return
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        remedy = "delete it: shards that were made with other settings are never used"
        raise CacheError("is damaged", where=file, value=str(error), remedy=remedy) from None
    changed = [f"{name}: {before.get(name)!r} then, {now[name]!r} now" for name in now if before.get(name) != now[name]]
    if changed:
        raise CacheError(
            "was built with other settings",
            where=out,
            value="; ".join(changed),
            remedy="build into another --out folder",
        )


def _index(plan: Plan, config: CacheConfig, shards: Sequence[Shard], records: Sequence[Record]) -> dict[str, Any]:
    notes = {"notes": list(plan.notes)} if plan.notes else {}
    return {
        **notes,
        "format": FORMAT,
        "storage": config.format,
        "precision": config.precision,
        "spec": plan.spec.to_dict(),
        "streams": config.streams,
        "low_band": {"rate": config.low_band_rate, "resampler": config.resampler},
        "statistics": {stream: statistics(stream, records) for stream in config.streams},
        "shards": [shard_to_dict(shard) for shard in shards],
    }
