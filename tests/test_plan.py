"""What a build would take of a corpus."""

from __future__ import annotations

from pathlib import Path

from reencoder_pipeline.build import plan_build
from tiny_build import tiny_config


def test_hours_take_of_every_split_its_share_by_the_ids_alone(music: Path, tiny_autoencoder: Path) -> None:
    whole = plan_build(music, tiny_config(tiny_autoencoder))
    half = plan_build(music, tiny_config(tiny_autoencoder, hours=whole.num_frames / whole.spec.frame_rate / 3600 / 2))
    ids = [track.id for job in whole.jobs for track in job.tracks]
    chosen = [(track.id, track.split) for job in half.jobs for track in job.tracks]
    assert {split for _, split in chosen} == {track.split for job in whole.jobs for track in job.tracks}
    assert [name for name in ids if name in dict(chosen)] == [name for name, _ in chosen]  # corpus order
    assert whole.num_frames / 3 < half.num_frames < whole.num_frames
