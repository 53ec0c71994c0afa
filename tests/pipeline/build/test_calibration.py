"""The time and the size of a build before it is made: by a clock that the autoencoder turns, and by counting files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from conftest import Built
from reencoder_pipeline.build import calibration
from reencoder_pipeline.build.build import plan_build
from reencoder_pipeline.build.calibration import calibrate, measure
from reencoder_pipeline.build.estimate import dry_run, dry_run_table, duration
from reencoder_pipeline.build.sizes import Assumptions, Scale, requests_to_write, scale
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track, read_corpus
from reencoder_pipeline.encoding.segments import plan_segments
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.latents import LatentSpec
from tiny_build import music as synthetic
from tiny_build import tiny_config, tree


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Ticking:
    """Encodes to zeros; every second of audio takes `cost` seconds of the clock."""

    def __init__(self, clock: Clock, *, cost: float, context: int) -> None:
        self.spec = LatentSpec("ticking", "", sample_rate=8_000, hop=80, channels=2)
        self.context, self.local, self.licence = context, True, "none"
        self._clock, self._cost = clock, cost
        self.lengths: list[int] = []

    def encode(self, audio: Tensor) -> Tensor:
        self.lengths.append(audio.shape[-1])
        self._clock.now += self._cost * audio.shape[-1] / self.spec.sample_rate
        return torch.zeros(len(audio), 2, self.spec.num_frames(audio.shape[-1]))

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(calibration, "time", clock)
    return clock


def recordings(folder: Path, *seconds: float) -> list[Track]:
    import soundfile

    for number, length in enumerate(seconds):
        soundfile.write(folder / f"{number}.wav", synthetic(seconds=length, rate=8_000, seed=number).T, 8_000)
    return list(read_corpus(folder))


SETTINGS = CacheConfig.model_validate({"streams": ["mono", "left", "right"], "segment_seconds": 2.0})


def test_what_segments_discard_is_paid_for(tmp_path: Path, clock: Clock) -> None:
    tracks = recordings(tmp_path, 10.0)
    autoencoder = Ticking(clock, cost=0.5, context=25)
    work = measure(autoencoder, tracks, SETTINGS, seconds=0.1)
    segments = list(plan_segments(1000, segment_frames=200, context=25))
    factor = len(segments) * 200 / 1000
    assert factor == 1.4
    assert (work.excerpts, work.audio_seconds, work.preparing) == (1, 2.0, 0.0)
    assert work.encoding == pytest.approx(factor * 3 * 0.5 * 2.0)
    assert work.elapsed == pytest.approx(3 * 0.5 * 2.0)


def test_segments_are_stacked_as_a_build_stacks_them(tmp_path: Path, clock: Clock) -> None:
    """A batch takes as long as one segment here: three are then encoded in the time of one."""
    autoencoder = Ticking(clock, cost=0.5, context=25)
    config = SETTINGS.model_copy(update={"batch_segments": 3})
    work = measure(autoencoder, recordings(tmp_path, 10.0), config, seconds=0.1)
    assert (work.excerpts, work.audio_seconds, work.elapsed) == (1, 6.0, 3 * 0.5 * 2.0)
    assert autoencoder.lengths[3:] == [16_000] * 3


def test_short_tracks_are_one_segment(tmp_path: Path, clock: Clock) -> None:
    work = measure(Ticking(clock, cost=1.0, context=25), recordings(tmp_path, 1.5), SETTINGS, seconds=99)
    assert (work.excerpts, work.audio_seconds) == (1, 1.5)
    assert work.encoding == pytest.approx(3 * 1.5)


def test_time_begins_when_all_are_ready_and_ends_after_the_excerpt_it_runs_out_in(tmp_path: Path, clock: Clock) -> None:
    tracks = recordings(tmp_path, 10.0, 10.0)
    autoencoder = Ticking(clock, cost=1.0, context=5)
    begun = []

    def ready() -> None:
        clock.now += 50
        begun.append(len(autoencoder.lengths))

    work = measure(autoencoder, tracks, SETTINGS, seconds=13.0, ready=ready)
    assert begun == [3]  # one short excerpt, to warm up
    assert max(autoencoder.lengths[:3]) == 11 * 80
    assert (work.excerpts, work.elapsed) == (3, 18.0)  # six seconds each


def test_all_there_is_is_enough(tmp_path: Path, clock: Clock) -> None:
    """Two tracks of 3 and 5 seconds in excerpts of 2: two rounds are 8 seconds of audio."""
    work = measure(Ticking(clock, cost=1.0, context=5), recordings(tmp_path, 3.0, 5.0), SETTINGS, seconds=1e9)
    assert (work.excerpts, work.audio_seconds) == (4, 8.0)


def test_files_that_fail_are_passed_over(tmp_path: Path, clock: Clock) -> None:
    tracks = [Track("gone", tmp_path / "gone.wav"), *recordings(tmp_path, 2.0)]
    work = measure(Ticking(clock, cost=1.0, context=5), tracks, SETTINGS, seconds=1e9)
    assert (work.excerpts, work.audio_seconds) == (1, 2.0)


def test_nothing_but_failures_is_an_error(tmp_path: Path, tiny_autoencoder: Path) -> None:
    with pytest.raises(AudioError, match=r"(?s)not one excerpt.*--no-calibrate"):
        calibrate([Track("gone", tmp_path / "gone.wav")], tiny_config(tiny_autoencoder), seconds=1, workers=2, seed=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_real_calibration(music: Path, tiny_autoencoder: Path, workers: int) -> None:
    """In this process, and in two that start together."""
    threads = torch.get_num_threads()
    found = calibrate(read_corpus(music), tiny_config(tiny_autoencoder), seconds=0.5, workers=workers, seed=0)
    assert torch.get_num_threads() == threads
    assert found.workers == workers
    assert found.excerpts >= workers
    assert found.worker_rate > 0
    assert 0 < found.preparing_share < 1
    assert found.start_seconds >= 0


# Sizes


@pytest.fixture(params=["zarr", "webdataset"])
def storage(request: pytest.FixtureRequest) -> str:
    return request.param


def run(plan: Any, config: CacheConfig, **arguments: Any) -> dict[str, Any]:
    given = {"calibration_seconds": None, "rate": None, "devices": 1, "hours_of_corpus": None, **arguments}
    return dry_run(plan, config, assumptions=Assumptions(), **given)


def test_a_plan_counts_what_a_build_then_writes(
    built: Built, music: Path, tiny_autoencoder: Path, storage: str
) -> None:
    config = tiny_config(tiny_autoencoder, format=storage)
    summary = run(plan_build(music, config), config)
    files = tree(built(storage))
    cache = open_cache(built(storage))
    assert summary["objects"] == len(files)
    assert (summary["tracks"], summary["shards"]) == (len(cache.tracks), len(cache.shards))
    data = sum(len(content) for name, content in files.items() if name.startswith("shards/"))
    assert summary["bytes"] < data < 2 * summary["bytes"]  # padding and metadata, of very small shards
    assert summary["seconds"] is None
    assert summary["usd"]["encoding"] is None
    assert "time: not measured" in dry_run_table(summary)


SPEC = LatentSpec("house", "", sample_rate=44_100, hop=1024, channels=64)


def of_hours(hours: float, **changes: Any) -> Scale:
    given: dict[str, Any] = {
        "num_tracks": round(hours * 15),  # four minutes each
        "num_frames": round(hours * 3600 * SPEC.frame_rate),
        "worker_rate": 10.0,
        "workers": 4,
        "devices": 1,
        "start_seconds": 60.0,
        "assumptions": Assumptions(device_hour=3.0, gb_month=0.02, put_1000=0.005, get_1000=0.0004),
    }
    return scale(SPEC, CacheConfig.model_validate({}), **{**given, **changes})


def test_ten_thousand_hours_by_hand() -> None:
    one = of_hours(10_000)
    frames = 36_000_000 * 44_100 / 1024
    assert one.frames == frames
    assert one.bytes == frames * 64 * 2 * 4
    assert one.shards == round(frames / 65_536) == 23_657
    assert one.objects == 10 * one.shards + 3
    assert one.device_hours == pytest.approx(250 + 60 / 3600)
    assert one.seconds == pytest.approx(250 * 3600 + 60)
    # An object each, a claim a shard, and a renewal each half minute of 1,000 hours of work.
    assert one.put_requests == one.objects + one.shards + 120_000
    assert one.usd["encoding"] == pytest.approx(3 * (250 + 60 / 3600))
    assert one.usd["storage_a_month"] == pytest.approx(one.bytes / 1e9 * 0.02)
    assert one.usd["put_requests"] == pytest.approx(one.put_requests * 0.005 / 1000)
    assert one.window_requests == 250_000 * 256 * 2


def test_devices_share_the_time_and_not_the_work() -> None:
    alone, eight = of_hours(10_000, start_seconds=0.0), of_hours(10_000, start_seconds=0.0, devices=8)
    assert alone.seconds is not None
    assert eight.seconds == pytest.approx(alone.seconds / 8)
    assert eight.device_hours == pytest.approx(alone.device_hours)


def test_more_workers_than_shards_do_not_help() -> None:
    many = of_hours(4, num_shards=8, devices=100, start_seconds=0.0)
    assert many.seconds == pytest.approx(3600 * 4 / 10 / 8)  # each shard is one worker's


def test_without_a_rate_there_is_no_time() -> None:
    one = of_hours(10, worker_rate=None)
    assert (one.seconds, one.device_hours, one.usd["encoding"]) == (None, None, None)


@pytest.mark.parametrize(("megabytes", "requests"), [(0, 1), (99, 1), (100, 4), (101, 5), (1000, 22)])
def test_large_objects_go_up_in_parts(megabytes: int, requests: int) -> None:
    assert requests_to_write(megabytes * 2**20) == requests


def test_a_larger_corpus_is_one_like_this(music: Path, tiny_autoencoder: Path) -> None:
    config = tiny_config(tiny_autoencoder)
    summary = run(plan_build(music, config), config, rate=100.0, hours_of_corpus=10_000.0)
    larger = summary["larger"]
    assert larger["hours"] == pytest.approx(10_000)
    assert larger["tracks"] / larger["hours"] == pytest.approx(summary["tracks"] / summary["hours"], rel=1e-3)
    assert larger["device_hours"] == pytest.approx(100)
    table = dry_run_table(summary)
    assert "10,000.00" in table
    assert "rate: 100 hours an hour, as given" in table


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (150, "2 min"), (9000, "2.5 h"), (864_000, "10.0 days")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# The command line


def test_the_command_line_calibrates_unless_told_not_to(
    music: Path, tiny_autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def calibrated(tracks: Any, config: CacheConfig, **arguments: Any) -> calibration.Calibration:
        asked.append(arguments)
        return calibration.Calibration(2, 3, 36.0, 10.0, 5.0, 0.25, worker_rate=50.0)

    monkeypatch.setattr("reencoder_pipeline.build.estimate.calibrate", calibrated)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    line = ["plan", str(music), "--autoencoder", str(tiny_autoencoder), "--json"]
    done = CliRunner().invoke(app, [*line, "--seconds", "7", "--devices", "4"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert asked == [{"seconds": 7.0, "workers": 1, "seed": 0}]  # one shard: no build would have two workers
    assert (summary["rate"], summary["devices"]) == (100.0, 4)
    assert summary["seconds"] == pytest.approx(5 + 3600 * summary["hours"] / 50)
    for options in (["--no-calibrate"], ["--rate", "9"]):
        summary = json.loads(CliRunner().invoke(app, [*line, *options]).stdout)
        assert summary["rate"] == (9 if "--rate" in options else None)
    assert len(asked) == 1


def test_assumptions_are_checked_like_settings(music: Path) -> None:
    from reencoder_pipeline.errors import ConfigError

    done = CliRunner().invoke(app, ["plan", str(music), "--assume", "gb_moth=3"])
    assert isinstance(done.exception, ConfigError)
    assert "did you mean gb_month?" in str(done.exception)
