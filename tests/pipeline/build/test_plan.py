"""What a build would take of a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from reencoder_pipeline.build.packing import PlannedTrack, pack
from reencoder_pipeline.build.plan import plan_build
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.job import Job
from tiny_build import tiny_config


def test_hours_take_of_every_split_its_share_by_the_ids_alone(music: Path, tiny_autoencoder: Path) -> None:
    whole = plan_build(music, tiny_config(tiny_autoencoder))
    half = plan_build(music, tiny_config(tiny_autoencoder, hours=whole.num_frames / whole.spec.frame_rate / 3600 / 2))
    ids = [track.id for job in whole.jobs for track in job.tracks]
    chosen = [(track.id, track.split) for job in half.jobs for track in job.tracks]
    assert {split for _, split in chosen} == {track.split for job in whole.jobs for track in job.tracks}
    assert [name for name in ids if name in dict(chosen)] == [name for name, _ in chosen]  # corpus order
    assert whole.num_frames / 3 < half.num_frames < whole.num_frames


SPEC = LatentSpec("tiny", "0" * 64, sample_rate=44_100, hop=1024, channels=4, stereo="per_channel")


def packed(names: list[str], *, seconds: float = 200.0) -> list[Job]:
    planned = [PlannedTrack(Track(name, Path(name), split="train"), name, round(seconds * 44_100)) for name in names]
    return list(pack(planned, SPEC, CacheConfig.model_validate({})))


@pytest.mark.parametrize("seconds", [30.0, 200.0, 4000.0])
def test_shards_are_as_long_as_asked_on_average_and_never_far_from_it(seconds: float) -> None:
    jobs = packed([f"{number:04}.flac" for number in range(2000)], seconds=seconds)
    track, whole = SPEC.num_frames(round(seconds * 44_100)), CacheConfig.model_validate({}).shard_frames
    assert all(whole / 2 <= job.num_frames < 2 * whole + track for job in jobs[:-1])
    mean = sum(job.num_frames for job in jobs) / len(jobs)
    assert 0.85 * whole < mean < 1.15 * whole + track


def test_a_track_more_or_less_moves_the_ends_of_few_shards() -> None:
    """Wherever it is: a shard that ends at the same track as before begins the same shards as before."""
    names = [f"{number:05}.flac" for number in range(0, 8_000, 10)]
    before = {job.key for job in packed(names)}
    assert len(before) > 90
    new = []
    for position in range(0, 800, 100):
        more = packed([*names[:position], f"{position * 10 - 1:05}.flac", *names[position:]])
        less = packed([*names[:position], *names[position + 1 :]])
        new += [len({job.key for job in jobs} - before) for jobs in (more, less)]
    assert max(new) <= 12
    assert sum(new) / len(new) < 4
