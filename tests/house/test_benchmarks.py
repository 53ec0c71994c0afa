"""The benchmarks' arithmetic, and their steps on a tiny cache: that they run and add up, never how fast they are."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.config import TrainConfig
from tiny_cache import SPEC, write_cache
from training_run import TINY, LinearAutoencoder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    return open_cache(write_cache(tmp_path_factory.mktemp("benchmarks") / "cache"))


@pytest.fixture(scope="module")
def training() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("training")


@pytest.fixture(scope="module")
def audio_in_the_loop(training: Any) -> Any:
    return importlib.import_module("audio_in_the_loop")


@pytest.fixture
def config(cache: LatentCache) -> TrainConfig:
    changes = {"valid_every": 0, "tensorboard": True, "autoencoder": "training_run:load_linear", "batch_size": 2}
    return TrainConfig.model_validate({"cache": cache.path, "out": "nowhere", **TINY, **changes})


def test_a_journal_becomes_seconds_by_phase(training: Any) -> None:
    def row(step: int, seconds: float, data: float, rest: float) -> dict[str, Any]:
        shares = {"data_share": data, "compute_share": 0.5, "optimizer_share": 0.25, "rest_share": rest}
        return {"kind": "train", "step": step, "seconds": seconds, **shares}

    journal = [
        row(2, 9.0, 0.25, 0.0),  # the warm-up
        row(4, 10.0, 0.25, 0.0),
        {"kind": "warning", "step": 4, "text": "passed over"},
        row(6, 13.0, 0.0, 0.25),
    ]
    timing = training.timing_of(journal, log_every=2)
    assert timing.step == 1.0
    assert timing.phases == {"data": 0.0625, "compute": 0.5, "optimizer": 0.25, "rest": 0.1875}
    assert timing.share("data", "rest") == 0.25


def test_rows_take_turns_for_as_many_steps_as_their_seconds_hold(training: Any) -> None:
    calls: list[tuple[str, int]] = []

    def block(name: str, step: float) -> Any:
        return lambda steps: calls.append((name, steps)) or training.Timing(step)

    rows = {"quick": block("quick", 0.1), "slow": block("slow", 4.0)}
    timings = training.interleaved(rows, training.Plan(seconds=1.0, rounds=2, steps=None))
    assert calls == [("quick", 1), ("slow", 1), *[("quick", 10), ("slow", 2)] * 2]
    assert training.ratio(timings["slow"], timings["quick"]) == pytest.approx(40)
    calls.clear()
    training.interleaved(rows, training.Plan(seconds=1.0, rounds=1, steps=7))
    assert calls == [("quick", 7), ("slow", 7)]


@pytest.mark.slow
def test_every_recipe_is_split_into_phases_that_add_up(training: Any, cache: LatentCache, config: TrainConfig) -> None:
    recipes = training.recipe_configs(config, cache, channels=4)
    assert list(recipes) == ["bwe L1", "bwe L1 + D(4)", "bwe L1 + mel", "m2s L1 + condition"]
    for timings in training.train_rows(recipes, training.Plan(seconds=0.0, rounds=1, steps=6)).values():
        (timing,) = timings
        assert timing.step > 0
        assert set(timing.phases) == {"data", "compute", "optimizer", "rest"}
        assert sum(timing.phases.values()) == pytest.approx(timing.step, rel=1e-3)
        assert timing.phases["compute"] > 0


def test_the_bare_module_learns_its_batch(training: Any, cache: LatentCache, config: TrainConfig) -> None:
    torch.manual_seed(0)
    step = training.bare_module(training.changed(config, lr=0.01), cache)
    losses = [step() for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


def test_the_table_says_which_goals_are_met(
    training: Any, cache: LatentCache, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = training.Timing(1.0, {"data": 0.02, "compute": 0.9, "optimizer": 0.06, "rest": 0.02})
    timings = {"train()": [whole], "bare module": [training.Timing(0.8)], "matrix products": [training.Timing(1.0)]}
    training.print_overhead(config, timings, cache)
    printed = capsys.readouterr().out
    assert printed.splitlines()[4].split()[:4] == ["train()", "1000.0", "2.0", "1.25"]
    assert "waiting for data: 2.00% of a step; goal at most 1%: NOT met" in printed
    assert "outside forward, backward and optimiser: 4.00% of a step; goal at most 5%: met" in printed


def test_flops_and_hours_of_a_step(training: Any, cache: LatentCache, config: TrainConfig) -> None:
    frames = 2 * SPEC.frames_in(config.window_seconds)
    multiplied = 8 * 16 + 7 * 16 + 2 * 16 * 32 + 16 * 8  # in, depthwise, expand and project, out
    assert training.step_flops(config, cache) == 3 * 2 * multiplied * frames
    assert training.paper_hours(config, 1.0) == pytest.approx(250_000 * 128 / 3600)


class CountingAutoencoder(LinearAutoencoder):
    encoded = decoded = 0

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        self.encoded += len(audio)
        frames = audio.unflatten(2, (-1, SPEC.hop))[:, 0]
        return torch.einsum("bth,ch->bct", frames, self._basis)

    def decode(self, latents: Tensor) -> Tensor:
        assert latents.requires_grad
        self.decoded += len(latents)
        return super().decode(latents)


@pytest.mark.slow
def test_audio_in_the_loop_encodes_both_streams_and_decodes_the_estimate(
    audio_in_the_loop: Any, cache: LatentCache, config: TrainConfig
) -> None:
    autoencoder = CountingAutoencoder()
    music = audio_in_the_loop.read_music(None, 0, sample_rate=SPEC.sample_rate)
    rows = audio_in_the_loop.loop_rows(config, cache, autoencoder, music, audio_batch=1)
    timings = {name: [block(2)] for name, block in rows.items()}  # three steps with the warm-up
    assert (autoencoder.encoded, autoencoder.decoded) == (6, 3)
    windows = audio_in_the_loop.per_window(timings, batch_size=2, audio_batch=1)
    for name, (timing,) in timings.items():
        share = 0.5 if name == "from shards" else 1.0
        assert windows[name][0].step == share * timing.step > 0
    audio_in_the_loop.print_loop(timings, batch_size=2, audio_batch=1)


def test_windows_of_music_are_pieces_of_it(audio_in_the_loop: Any) -> None:
    music = [np.arange(100.0, 150.0), np.arange(3.0)]  # the second is too short
    drawn = audio_in_the_loop.draw_audio(music, num=8, num_samples=20, seed=1)
    assert drawn.shape == (8, 20)
    assert (np.diff(drawn) == 1).all()
    assert len({window[0] for window in drawn}) > 1
    assert (drawn == audio_in_the_loop.draw_audio(music, num=8, num_samples=20, seed=1)).all()


@pytest.mark.slow
def test_evaluation_says_where_its_time_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = 0.1 * np.random.default_rng(0).standard_normal((44_100 * 2, 2))
    soundfile.write(str(tmp_path / "song.wav"), audio, 44_100)
    monkeypatch.syspath_prepend(BENCHMARKS)
    evaluation = importlib.import_module("evaluation")
    arguments = ["--clips", "1", "--seconds", "1", "--baselines", "folding"]
    monkeypatch.setattr("sys.argv", ["evaluation.py", str(tmp_path), *arguments])
    monkeypatch.setattr(evaluation, "WORKERS", (0,))
    evaluation.main()
    said = capsys.readouterr().out
    assert "1 clips of 1 s, 5 systems" in said
    shares = [float(line.split()[-1].rstrip("%")) for line in said.splitlines() if line.endswith("%")]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert "0 scoring processes" in said


@pytest.fixture(scope="module")
def loader(training: Any) -> Any:
    return importlib.import_module("loader")


@pytest.fixture(scope="module")
def noise(loader: Any) -> Any:
    return loader.draw_noise(gigabytes=0.006, seed=3)


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
def test_a_random_cache_is_a_whole_cache(loader: Any, noise: Any, tmp_path: Path, storage: str) -> None:
    random_cache = importlib.import_module("random_cache")
    cache = open_cache(loader.write_random_cache(tmp_path / "cache", noise, storage=storage))
    assert verify_cache(cache) == []
    assert len(cache.tracks) == len(noise.lengths) >= 2
    for number, track in enumerate(cache.tracks):
        for stream, frames in zip(random_cache.STREAMS, noise.track(number), strict=True):
            assert (cache.read(track, stream) == frames).all()
    assert list(random_cache.pack(noise)) == [range(len(noise.lengths))]


def test_a_row_that_delivers_anything_else_is_found_out(loader: Any, noise: Any) -> None:
    wanted = loader.Windows(noise, get_task("m2s"), 60, 2)
    proof, ends = loader.Proof(noise, 1), noise.bounds
    places = [int(ends[1]) - 60, int(ends[1])]  # the last window of a track, the first of the next
    right = np.stack([noise.frames[1:, place : place + 60] for place in places])  # (B, streams, T, C)
    by_name = {name: torch.from_numpy(right[:, number]) for number, name in enumerate(wanted.streams)}
    assert proof.tracks_in(by_name, wanted, name="right") == 2
    batch = torch.from_numpy(right).transpose(1, 2)
    assert proof.tracks_in(batch, wanted, name="right") == 2
    later = batch.clone()
    later[1, 30:, 2] = batch[1, 29:-1, 2]  # a stream a frame late
    across = torch.from_numpy(noise.frames[1:, ends[1] - 30 : ends[1] + 30].copy()).transpose(0, 1)
    for wrong in (later, torch.stack([batch[0], across]), batch.float(), batch[:1]):
        with pytest.raises(CacheError, match="delivers"):
            proof.tracks_in(wrong, wanted, name="wrong")


def test_goals_are_ratios_of_the_run(loader: Any, tmp_path: Path) -> None:
    tables = importlib.import_module("loader_tables")

    def row(name: str, **values: Any) -> Any:
        return loader.Row(name, tmp_path, lambda wanted: iter(()), **values)

    ours = [row(name) for name in tables.OURS.values()]
    names = {".npy loaded per item, 2 workers": 150.0, "window by window": 40.0, "tuned": 3.0, "a pass": 2.0}
    peers = [
        row(".npy loaded per item, 2 workers", workers=2), row("window by window"),
        row("tuned", tuned=True), row("a pass", independent=False),
    ]  # fmt: skip
    timings = {each.name: [loader.Timing(1.0, {"memcpy": 0.6})] for each in ours}
    timings |= {name: [loader.Timing(step, {"memcpy": 0.6})] for name, step in names.items()}
    found = tables.reached([*ours, *peers], timings, frames=172)
    assert [(goal.value, goal.met) for goal in found] == [
        (0.6, False), (0.6, False), (40.0, True), (3.0, False), (150.0, True), (150.0, True)
    ]  # fmt: skip
    assert "window by window" in found[2].text()
    assert [goal.least for goal in tables.reached([*ours, *peers], timings, frames=60)][:2] == [0.5, 0.5]
    assert not tables.Cold(1.0, 0.1, 0.0).is_cold
    assert tables.Cold(1.0, 1.5, 0.01).is_cold


def test_files_can_be_forgotten(loader: Any, tmp_path: Path) -> None:
    page_cache = loader.page_cache
    for number in range(3):
        (tmp_path / str(number)).write_bytes(bytes(1 << 20))
    files = page_cache.files_in(tmp_path)
    assert page_cache.resident_share(files) == 1
    page_cache.drop(files)
    assert page_cache.resident_share(files) in (0, 1)  # 1: files that live in memory only
    page_cache.warm(files)
    assert page_cache.resident_share(files) == 1


@pytest.mark.slow
def test_every_row_of_the_loader_runs_and_absent_peers_are_named(
    loader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    for module in (loader, importlib.import_module("loader_peers")):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in loader.OPTIONAL.values() else found(name))
    monkeypatch.setattr(importlib.import_module("loader_peers"), "BUFFER", 20)
    monkeypatch.setattr(importlib.import_module("loader_peers"), "WORKERS", 1)
    sizes = ["--gigabytes", "0.006", "--batch", "4", "--seconds", "0.01", "--rounds", "1", "--frames", "60"]
    files = ["--folder", str(tmp_path), "--markdown", str(tmp_path / "out.md")]
    monkeypatch.setattr("sys.argv", ["loader.py", "--tasks", "m2s", *sizes, *files])
    loader.main()
    said = capsys.readouterr().out
    assert said.count("our loader, Zarr shards") >= 4  # two tables, a goal, a sentence
    for name in loader.OPTIONAL:
        row = next(line for line in said.splitlines() if line.startswith(f"{name} "))
        assert row.split()[1:3] == ["not", "installed"]
    warm = said.split("Warm: ")[1].split("our loader, Zarr shards, of memcpy")[0].splitlines()
    assert {line.split("  ")[0] for line in warm[3:-3]} >= {"zarr-python", ".npy kept mapped, tuned, 1 workers"}
    assert "of 7 goals met" in said
    assert "| zarr-python |" in (tmp_path / "out.md").read_text()
