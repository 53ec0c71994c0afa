"""Training an autoencoder of the house family: exact resume, ranks, adversary, mixing, what TensorBoard gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from reencoder_pipeline.autoencoders.vocos.training.adversary import Adversary, discriminator_loss, generator_losses
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.autoencoders.vocos.training.train import train_autoencoder
from reencoder_pipeline.corpora.synthetic import render_clips
from reencoder_pipeline.errors import ConfigError

ADVERSARY = {"weight": 0.1, "features": 1.0, "from_step": 2, "fft_sizes": (256, 512), "periods": (2,), "filters": 4}


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Three tracks for training, one for validation."""
    render_clips(tmp_path / "clips", count=4, seconds=3.0, seed=1)
    rows = [
        {"path": path.relative_to(tmp_path).as_posix(), "split": "valid" if index == 3 else "train"}
        for index, path in enumerate(sorted((tmp_path / "clips").iterdir()))
    ]
    (tmp_path / "music.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("extra", [{}, {"adversary": ADVERSARY, "losses": {"mixing": 0.5}}], ids=["plain", "all"])
def test_training_resumes_bit_for_bit(music: Path, extra: dict[str, Any]) -> None:
    whole = train(music, "whole", steps=6, **extra)
    train(music, "parts", steps=3, **extra)
    parts = train(music, "parts", steps=6, resume=True, **extra)
    assert whole.read_bytes() == parts.read_bytes()
    rows = journal(music / "whole")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    expected = {"loss", "grad_norm", "spectral", "mel", "complex", "waveform", "kl"}
    if extra:
        expected |= {"mixing", "adversary", "fooled", "features"}
    assert expected <= set(rows[-1])


def test_training_learns(music: Path) -> None:
    train(music, "run", steps=40, valid_every=10)
    stft_d = [row["stft_d"] for row in journal(music / "run", kind="valid")]
    assert stft_d[-1] < stft_d[0] - 0.05


def test_validation_is_journalled_and_tensorboard_gets_spectrograms_and_sound(music: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(music, "run", steps=2, valid_every=2, tensorboard=True)
    (valid,) = journal(music / "run", kind="valid")
    assert {"stft_d", "mel_d", "waveform", "si_sdr"} <= set(valid)
    board = EventAccumulator(str(music / "run" / "tensorboard"))
    board.Reload()
    assert "reference above, estimate below/0" in board.Tags()["images"]
    assert {"reference/0", "estimate/0"} <= set(board.Tags()["audio"])
    assert "valid/stft_d" in board.Tags()["scalars"]


def test_a_run_folder_is_not_taken_over(music: Path) -> None:
    train(music, "run", steps=1)
    with pytest.raises(ConfigError, match="--resume"):
        train(music, "run", steps=2)
    with pytest.raises(ConfigError, match=r"lr: 0\.002 then, 0\.1 now"):
        train(music, "run", steps=2, resume=True, lr=0.1)


@pytest.mark.slow
def test_two_ranks_train_as_one_does(music: Path) -> None:
    extra = {"adversary": ADVERSARY, "losses": {"mixing": 0.5}, "precision": "float32"}
    train(music, "alone", steps=4, **extra)
    (music / "two.yaml").write_text(yaml.safe_dump(settings(music, "two", steps=4, **extra)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", "--standalone"]
    script = "from reencoder_eval.cli.autoencoder import main; main()"
    subprocess.run(
        [*command, sys.executable, "-c", script, "train", str(music / "two.yaml")],
        check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    rows, expected = journal(music / "two"), journal(music / "alone")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, other in zip(rows, expected, strict=True):
        # Losses are means over the global batch, noise and mixtures included. Not compared: what the adversary says
        # (rank 0's own share), and norms of gradients, which a rounding difference moves by much.
        for name in ("spectral", "mel", "complex", "waveform", "kl", "mixing"):
            assert row[name] == pytest.approx(other[name], rel=0.02), name
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5 if row["step"] == 1 else 0.02)


@pytest.mark.parametrize("samples", [4_096, 4_097])
def test_an_adversary_judges_every_size_and_teaches(samples: int) -> None:
    torch.manual_seed(0)
    adversary = Adversary(fft_sizes=(256, 512), periods=(2, 3), filters=4)
    real, fake = 0.1 * torch.randn(2, 1, samples), torch.zeros(2, 1, samples, requires_grad=True)
    judged = adversary(real)
    assert len(judged) == 4
    fooled, features = generator_losses(judged, adversary(fake))
    (fooled + features).backward()
    assert fake.grad is not None
    assert torch.isfinite(fake.grad).all()
    assert float(fake.grad.abs().max()) > 0
    optimizer = torch.optim.Adam(adversary.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = discriminator_loss(adversary(real), adversary(fake.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]  # noise against silence is an easy case
    assert float(generator_losses(judged, adversary(real))[1]) >= 0


def journal(run: Path, *, kind: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def train(folder: Path, name: str, *, steps: int, resume: bool = False, **extra: Any) -> Path:
    config = AutoencoderTrainConfig.model_validate(settings(folder, name, steps=steps, **extra))
    return train_autoencoder(config, resume=resume, say=lambda _: None)


def settings(folder: Path, name: str, *, steps: int, **extra: Any) -> dict[str, Any]:
    shape = {"n_fft": 512, "fine": [16, 32, 1], "coarse": [16, 32, 1], "latent_channels": 4, "lapped": 2, "envelope": 2}
    given = {
        "source": str(folder / "music.jsonl"),
        "pcm": str(folder / "pcm"),
        "out": str(folder / name),
        "model": shape,
        "steps": steps,
        # A run that is stopped early must have had the rates of the whole one: no decay before the end.
        "decay_steps": 0,
        "warmup_steps": 2,
        "batch_size": 4,
        "excerpt_seconds": 0.2,
        "lr": 2e-3,
        "threads": 1,
        "log_every": 1,
        "valid_every": 0,
        "tensorboard": False,
    }
    return json.loads(json.dumps({**given, **extra}))
