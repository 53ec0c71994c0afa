"""The size and the time of a build before it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from reencoder_pipeline.build.estimate import duration, encoding_rate, estimate, table
from reencoder_pipeline.build.plan import Plan, plan_build
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track, read_corpus
from reencoder_pipeline.corpora.discovery import LeftOut
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.job import Job
from tiny_build import Built, tiny_config, tree

SPEC = LatentSpec("house", "", sample_rate=44_100, hop=1024, channels=64)


def of_hours(hours: float, *, shards: int) -> Plan:
    frames = round(hours * 3600 * SPEC.frame_rate)
    jobs = tuple(Job(str(number), (), frames // shards, ()) for number in range(shards))
    return Plan(SPEC, "MIT", (), jobs, (), round(hours * 15), 0, frames, LeftOut())  # tracks of four minutes


def estimated(plan: Plan, config: CacheConfig, **changes: Any) -> dict[str, Any]:
    return estimate(plan, config, **{"seconds": None, "rate": None, "devices": 1, "hours": None, **changes})


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
def test_a_plan_counts_what_a_build_then_writes(
    built: Built, music: Path, tiny_autoencoder: Path, storage: str
) -> None:
    config = tiny_config(tiny_autoencoder, format=storage)
    summary = estimated(plan_build(music, config), config)
    files, cache = tree(built(storage)), open_cache(built(storage))
    assert (summary["tracks"], summary["shards"]) == (len(cache.tracks), len(cache.shards))
    data = sum(len(content) for name, content in files.items() if name.startswith("shards/"))
    assert summary["bytes"] < data < 2 * summary["bytes"]  # padding and metadata, of very small shards
    assert summary["seconds"] is None
    assert "time: not measured" in table(summary)


def test_sizes_and_time_by_hand() -> None:
    summary = estimated(of_hours(4, shards=8), CacheConfig.model_validate({}), rate=10.0, hours=10_000)
    assert summary["bytes"] == summary["frames"] * 64 * 2 * 4
    assert summary["seconds"] == pytest.approx(3600 * 4 / 10)
    larger = summary["larger"]
    assert larger["hours"] == pytest.approx(10_000)
    assert larger["tracks"] == 150_000
    assert larger["shards"] == round(larger["frames"] / 65_536) == 23_657
    assert larger["seconds"] == pytest.approx(3600 * 1000)
    lines = table(summary).splitlines()
    assert [line.split()[-2:] for line in lines if line.startswith("latents")] == [["793.80", "GB"]]
    assert [line.split()[1:] for line in lines if line.startswith("time")] == [["24", "min", "41.7", "days"]]


def test_devices_share_the_time_and_more_of_them_than_shards_do_not_help() -> None:
    plan, config = of_hours(4, shards=8), CacheConfig.model_validate({})
    alone, four, many = (estimated(plan, config, rate=10.0, devices=devices)["seconds"] for devices in (1, 4, 100))
    assert four == pytest.approx(alone / 4)
    assert many == pytest.approx(alone / 8)


def test_the_rate_is_measured_in_this_process(music: Path, tiny_autoencoder: Path) -> None:
    threads, config = torch.get_num_threads(), tiny_config(tiny_autoencoder)
    tracks = [Track("gone", music / "gone.wav"), *read_corpus(music)]
    assert 1 < encoding_rate(tracks, config, seconds=2) < 10_000
    assert encoding_rate(tracks[:2], config, seconds=1e6) > 1  # all of the one that is there
    assert torch.get_num_threads() == threads


def test_nothing_but_failures_is_an_error(tmp_path: Path, tiny_autoencoder: Path) -> None:
    with pytest.raises(AudioError, match=r"(?s)not one track.*gone.*--no-calibrate"):
        encoding_rate([Track("gone", tmp_path / "gone.wav")], tiny_config(tiny_autoencoder), seconds=1)


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (150, "2 min"), (9000, "2.5 h"), (864_000, "10.0 days")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_command_line_measures_unless_told_not_to(music: Path, tiny_autoencoder: Path) -> None:
    def plan(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["plan", str(music), "--autoencoder", str(tiny_autoencoder), "--json", *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    measured = plan("--seconds", "1", "--hours", "100")
    assert measured["rate"] > 0
    assert measured["seconds"] > 0
    assert measured["larger"]["hours"] == pytest.approx(100)
    assert plan("--no-calibrate")["rate"] is None
    given = plan("--rate", "9", "--devices", "4")
    assert (given["rate"], given["devices"]) == (9, 4)
