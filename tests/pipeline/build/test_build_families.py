"""A cache of every family from the command line's own function: built end to end, and it tells which one made it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.build.local_workers import run_jobs
from reencoder_pipeline.build.plan import plan_build
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app
from reencoder_pipeline.errors import ConfigError
from tiny_build import music, tiny_config
from tiny_families import FAMILIES, saved

SETTINGS = {"low_band_rate": 4_000, "segment_seconds": 2.5, "tasks": ["bwe", "m2s"]}
MONO = ["mono", "low_band", "left", "right"]


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    soundfile.write(folder / "song.wav", music(seconds=3.1).T, 44_100)
    return folder


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("house", "vocos")])
def test_a_cache_of_every_family(family: str, song: Path, tmp_path: Path) -> None:
    name = saved(family, tmp_path / "weights")
    autoencoder = load_autoencoder(name)
    spec = autoencoder.spec
    streams = [*MONO, "stereo"] if spec.stereo == "joint" else MONO
    overrides = [
        part for key, value in {**SETTINGS, "streams": streams}.items() for part in ("--set", f"{key}={value}")
    ]
    planned = run("plan", song, "--autoencoder", name, *overrides, "--no-calibrate", "--json")
    assert json.loads(planned.stdout)["autoencoder"] == spec.to_dict()
    built = run("build", song, "--out", tmp_path / "cache", "--autoencoder", name, *overrides)
    for said in (planned.stderr, built.stderr):
        assert f"weights of {spec.autoencoder}: {autoencoder.licence}" in said
        assert ("are not those of the whole track" in said) != autoencoder.local
    summary = json.loads(run("inspect", tmp_path / "cache", "--json").stdout)
    assert summary["autoencoder"] == f"{spec.autoencoder} ({spec.weights[:12]})"
    assert summary["stereo"] == spec.stereo
    assert ("segment_seconds" in summary.get("notes", "")) != autoencoder.local

    cache = open_cache(tmp_path / "cache")
    assert cache.spec == spec
    (track,) = cache.tracks
    encoded = {stream: cache.read(track, stream).astype(np.float32) for stream in streams}
    shape = (spec.num_frames(track.num_samples), spec.channels)
    assert {frames.shape for frames in encoded.values()} == {shape}
    assert all(np.isfinite(frames).all() for frames in encoded.values())
    assert len({frames.tobytes() for frames in encoded.values()}) == len(streams)


def test_the_stream_stereo_is_for_joint_autoencoders(song: Path, tmp_path: Path) -> None:
    name = saved("oobleck_joint", tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)both channels together.*form `joint`"):
        plan_build(song, tiny_config(f"{name}#form=dual_mono", streams=["mono", "stereo"]))
    plan = plan_build(song, tiny_config(name, streams=["mono", "stereo"]))
    assert plan.spec.stereo == "joint"


def test_forms_and_segments_are_what_shards_are_made_of(song: Path, tmp_path: Path) -> None:
    name = saved("kvae_audio", tmp_path / "kvae")
    keys = {plan_build(song, tiny_config(name, segment_seconds=seconds)).jobs[0].key for seconds in (2.5, 3.0)}
    assert len(keys) == 2
    name = saved("oobleck_joint", tmp_path / "oobleck")
    forms = [plan_build(song, tiny_config(f"{name}#form={f}")) for f in ("joint", "dual_mono")]
    assert forms[0].jobs[0].key != forms[1].jobs[0].key
    assert not forms[0].notes


@pytest.mark.slow
def test_workers_load_it_by_its_name_too(song: Path, tmp_path: Path) -> None:
    """Processes of their own, with a quote and an option's sign in the name."""
    name = saved("mmaudio", tmp_path / "it's #1")
    config = tiny_config(name, **SETTINGS)
    (job,) = plan_build(song, config).jobs
    jobs = [job, replace(job, key=job.key[::-1])]
    records = list(run_jobs(jobs, tmp_path / "cache", config, workers=2))
    assert {record.shard.key for record in records} == {job.key for job in jobs}
    assert [track.num_frames for record in records for track in record.shard.tracks] == [job.num_frames] * 2
