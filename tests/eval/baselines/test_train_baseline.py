"""Training of baselines: each recipe lowers its loss, resumes exactly, and leaves weights that an evaluation reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from typer.testing import CliRunner

from reencoder_eval.baselines.baseline import load_baseline
from reencoder_eval.cli.evaluate import app
from reencoder_eval.config import BaselineTrainConfig
from reencoder_eval.evaluation_folder import read_rows
from reencoder_eval.train_baseline import train_baseline
from reencoder_pipeline.errors import ConfigError, EvaluationError, TrainingError

RATE = 44_100
BASELINES = {"aero": ("bwe", 4), "musichifi_bwe": ("bwe", 64), "musichifi_m2s": ("m2s", 64)}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number in range(12):
        audio = 0.1 * np.random.default_rng(number).standard_normal((RATE, 2))
        soundfile.write(str(folder / f"{number}.wav"), audio, RATE)
    return folder


def config(songs: Path, out: Path, baseline: str, **changes: Any) -> BaselineTrainConfig:
    values = {
        "baseline": baseline, "source": songs, "pcm": out.parent / "pcm", "out": out,
        "channels": BASELINES[baseline][1], "discriminator_filters": 4, "steps": 4, "batch_size": 2,
        "excerpt_seconds": 0.25, "valid_every": 2, "valid_excerpts": 2,
        "log_every": 1, "tensorboard": False, "device": "cpu", "threads": 1,
    }  # fmt: skip
    return BaselineTrainConfig.model_validate({**values, **changes})


def train(settings: BaselineTrainConfig, *, resume: bool = False) -> Path:
    return train_baseline(settings, resume=resume, say=lambda _: None)


@pytest.mark.parametrize("baseline", BASELINES)
def test_trained_weights_become_a_row(baseline: str, songs: Path, tmp_path: Path) -> None:
    weights = train(config(songs, tmp_path / "run", baseline))
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "valid"] == [2, 4]
    assert all(np.isfinite(row["loss"]) and row["discriminator"] > 0 for row in rows if row["kind"] == "train")
    task = BASELINES[baseline][0]
    untrained = load_baseline(baseline, task=task)
    assert untrained.run is None
    loaded = load_baseline(baseline, weights=weights, task=task)
    assert loaded.run is not None
    assert loaded.digest != untrained.digest
    audio = (0.1 * np.random.default_rng(0).standard_normal((1, RATE // 2 + 1))).astype(np.float32)
    estimate = loaded.run(audio, RATE)
    assert (estimate.shape, estimate.dtype) == ((2 if task == "m2s" else 1, audio.shape[1]), np.float32)
    assert np.isfinite(estimate).all()


@pytest.mark.parametrize("baseline", ["aero", "musichifi_m2s"])
def test_resuming_is_going_on(baseline: str, songs: Path, tmp_path: Path) -> None:
    train(config(songs, tmp_path / "whole", baseline))
    train(config(songs, tmp_path / "parts", baseline, steps=2))
    train(config(songs, tmp_path / "parts", baseline), resume=True)
    whole, parts = (tmp_path / name / "baseline.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_validating_on_silence_leaves_the_last_weights(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    for split, gain in (("train", 0.1), ("valid", 0.0)):
        audio = gain * np.random.default_rng(0).standard_normal((RATE, 2))
        soundfile.write(str(tmp_path / f"{split}.wav"), audio, RATE)
    manifest.write_text("".join(f'{{"path": "{split}.wav", "split": "{split}"}}\n' for split in ("train", "valid")))
    assert train(config(manifest, tmp_path / "run", "aero", steps=2)).is_file()


def test_the_discriminator_waits_where_it_is_told_to(songs: Path, tmp_path: Path) -> None:
    train(config(songs, tmp_path / "run", "aero", adversary_from=2))
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert ["discriminator" in row for row in rows] == [False, False, True, True]


def test_the_loss_falls(songs: Path, tmp_path: Path) -> None:
    settings = config(songs, tmp_path / "run", "musichifi_bwe", steps=12, adversary_from=100, valid_every=0)
    train(settings)
    losses = [row["loss"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_what_cannot_be_trained_on_is_said(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config(songs, tmp_path / "run", "aero", steps=1, valid_every=0))
    with pytest.raises(ConfigError, match="a run is there already"):
        train(config(songs, tmp_path / "run", "aero", steps=1, valid_every=0))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"path": "%s", "split": "train", "tasks": ["bwe"]}\n' % (songs / "0.wav"))
    with pytest.raises(EvaluationError, match="no track of the train split suits m2s"):
        train(config(songs, tmp_path / "none", "musichifi_m2s", source=manifest))
    monkeypatch.setattr("reencoder_eval.baselines.aero.training.aero_losses", lambda *_: {"x": torch.tensor(np.nan)})
    with pytest.raises(TrainingError, match="not finite"):
        train(config(songs, tmp_path / "nan", "aero"))


def test_the_command_trains(songs: Path, tmp_path: Path) -> None:
    file = tmp_path / "aero.yaml"
    file.write_text(yaml.safe_dump(config(songs, tmp_path / "run", "aero", steps=1).model_dump(mode="json")))
    result = CliRunner().invoke(app, ["train-baseline", str(file)])
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.strip()).is_file()
