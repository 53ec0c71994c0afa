"""Describes one shard to be made (`Job`), and tells whether a record is that of the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reencoder_pipeline.cache.layout import ShardFormat
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.record import Record, is_whole


@dataclass(frozen=True)
class Job:
    """A shard to make. `num_frames` is an estimate from the headers of the files.

    `recipes`: of each track, a digest of all that its frames and measurements are made of. `sources`: recipe -> key of
    a committed shard to copy such a track from. `replaces`: digest of a record that has to be replaced.
    """

    key: str
    tracks: tuple[Track, ...]
    num_frames: int
    recipes: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    replaces: str | None = None


def is_made_of(job: Job, record: Record, form: ShardFormat, spec: LatentSpec) -> bool:
    """Whether a record is that of the job's shard: its key, its tracks in their order, what each of them is made of,
    and all that a shard of them has."""
    tracks, failed = record.shard.tracks, {failure.get("id") for failure in record.failures}
    made = [(track, recipe) for track, recipe in zip(job.tracks, job.recipes, strict=True) if track.id not in failed]
    if record.shard.key != job.key or len(made) != len(tracks) or len(tracks) + len(record.failures) != len(job.tracks):
        return False
    # Older records do not know their recipes; those of the job are in its key.
    recipes = record.recipes or tuple(recipe for _, recipe in made)
    return is_whole(record, form) and all(
        (there.id, there.split, there.sha256) == (track.id, track.split, track.sha256)
        and its_recipe == recipe
        and there.num_frames == spec.num_frames(there.num_samples)
        for there, its_recipe, (track, recipe) in zip(tracks, recipes, made, strict=True)
    )


def failure_row(name: str, path: Path, error: Exception) -> dict[str, str]:
    """A line of failures.jsonl."""
    return {"id": name, "path": str(path), "error": str(error) or repr(error)}
