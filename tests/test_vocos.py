"""The house family: shapes, losses with known answers, weights files, and a training that resumes bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.autoencoders.vocos.adapter import HOUSE_WEIGHTS, VocosAutoencoder
from reencoder_pipeline.autoencoders.vocos.losses import (
    LOG_FLOOR,
    RESOLUTIONS,
    kl_divergence,
    mel_filterbanks,
    reconstruction_losses,
)
from reencoder_pipeline.autoencoders.vocos.model import Vocos, VocosConfig, _istft, _stft
from reencoder_pipeline.autoencoders.vocos.train import train_autoencoder
from reencoder_pipeline.autoencoders.vocos.weights import save_vocos
from reencoder_pipeline.config import AutoencoderTrainConfig
from reencoder_pipeline.errors import AutoencoderError, ConfigError
from reencoder_pipeline.synthetic import render_clips

TINY = VocosConfig(n_fft=512, fine=(16, 32, 1), coarse=(16, 32, 1), latent_channels=4)


def test_stft_and_its_inverse_are_exact_and_keep_the_length() -> None:
    audio = torch.randn(2, 8 * 1024, generator=torch.Generator().manual_seed(0))
    config = VocosConfig()
    window = torch.hann_window(config.n_fft)
    spectrum = _stft(audio, window, config)
    assert spectrum.shape == (2, 513, 32)
    inside = slice(config.n_fft, -config.n_fft)  # the very ends lack half of their frames
    restored = _istft(spectrum, window, config)
    assert restored.shape == audio.shape
    torch.testing.assert_close(restored[:, inside], audio[:, inside], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [1, 1023, 1024, 1025, 44_100])
def test_any_length_is_encoded_into_the_frames_that_cover_it(samples: int, tmp_path: Path) -> None:
    autoencoder = _saved(tmp_path)
    latents = autoencoder.encode(torch.zeros(2, 1, samples))
    assert latents.shape == (2, 4, autoencoder.spec.num_frames(samples))
    assert autoencoder.decode(latents).shape == (2, 1, latents.shape[-1] * 1024)


def test_losses_are_zero_for_equal_signals_and_as_calculated_for_a_gain() -> None:
    banks = mel_filterbanks(44_100)
    audio = 0.1 * torch.randn(2, 16_384, generator=torch.Generator().manual_seed(0))
    same = reconstruction_losses(audio, audio, resolutions=RESOLUTIONS, filterbanks=banks)
    assert all(float(value) < 1e-5 for value in same.values())
    louder = reconstruction_losses(1.1 * audio, audio, resolutions=RESOLUTIONS, filterbanks=banks)
    # |1.1 X - X| / |X| = 0.1 and log 1.1 = 0.0953, but for the few bins at the floor.
    assert float(louder["spectral"]) == pytest.approx(0.1 + np.log(1.1), rel=1e-2)
    assert float(louder["mel"]) == pytest.approx(0.1 + np.log(1.1), rel=1e-2)


def test_no_mel_band_is_empty() -> None:
    for bank in mel_filterbanks(44_100).values():
        assert (bank.sum(dim=1) > 0).all()


def test_silence_has_finite_losses_and_gradients() -> None:
    estimate = torch.zeros(1, 8_192, requires_grad=True)
    losses = reconstruction_losses(
        estimate, torch.zeros(1, 8_192), resolutions=RESOLUTIONS, filterbanks=mel_filterbanks(44_100)
    )
    torch.stack(list(losses.values())).sum().backward()
    assert torch.isfinite(estimate.grad if estimate.grad is not None else torch.tensor(float("nan"))).all()
    assert LOG_FLOOR == 1e-4


def test_kl_of_the_prior_is_zero_and_of_a_shifted_posterior_is_half_its_square() -> None:
    zeros = torch.zeros(2, 4, 3)
    assert float(kl_divergence(zeros, zeros)) == 0.0
    assert float(kl_divergence(zeros + 2.0, zeros)) == pytest.approx(4 * 2.0)


def test_weights_survive_the_file_and_foreign_files_are_refused(tmp_path: Path) -> None:
    autoencoder = _saved(tmp_path)
    again = load_autoencoder(str(tmp_path / "tiny.safetensors"))
    audio = torch.randn(1, 1, 5_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(autoencoder.encode(audio), again.encode(audio))
    assert again.spec == autoencoder.spec
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not safetensors at all")
    with pytest.raises(AutoencoderError, match=r"foreign\.safetensors"):
        load_autoencoder(str(foreign))
    with pytest.raises(AutoencoderError, match="one of: house"):
        load_autoencoder("hause")
    with pytest.raises(AutoencoderError, match="cannot be imported"):
        load_autoencoder("no_such_package:load")


def test_an_autoencoder_of_ones_own_is_loaded_by_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _saved(tmp_path)
    (tmp_path / "my_codec.py").write_text(
        "from pathlib import Path\n"
        "from reencoder_pipeline.autoencoders.vocos.adapter import VocosAutoencoder\n"
        "def load(device):\n"
        "    return VocosAutoencoder.load(Path(__file__).with_name('tiny.safetensors'), device=device, name='mine')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_autoencoder("my_codec:load").spec.autoencoder == "mine"


def test_training_resumes_bit_for_bit_and_learns(tmp_path: Path) -> None:
    render_clips(tmp_path / "music", count=3, seconds=3.0, seed=1)
    whole = train_autoencoder(_config(tmp_path, "whole", steps=6), resume=False, progress=_quiet)
    train_autoencoder(_config(tmp_path, "parts", steps=6, stop=3), resume=False, progress=_quiet)
    parts = train_autoencoder(_config(tmp_path, "parts", steps=6), resume=True, progress=_quiet)
    assert whole.read_bytes() == parts.read_bytes()
    journal = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in journal] == [1, 2, 3, 4, 5, 6]
    assert journal[-1]["loss"] < journal[0]["loss"]


def test_a_run_folder_is_not_taken_over(tmp_path: Path) -> None:
    render_clips(tmp_path / "music", count=3, seconds=3.0, seed=1)
    train_autoencoder(_config(tmp_path, "run", steps=1), resume=False, progress=_quiet)
    with pytest.raises(ConfigError, match="--resume"):
        train_autoencoder(_config(tmp_path, "run", steps=2), resume=False, progress=_quiet)
    changed = _config(tmp_path, "run", steps=2).model_copy(update={"lr": 0.1})
    with pytest.raises(ConfigError, match="lr"):
        train_autoencoder(changed, resume=True, progress=_quiet)


@pytest.mark.skipif(not HOUSE_WEIGHTS.exists(), reason="the house weights are not trained yet")
def test_the_house_autoencoder_is_the_size_it_says() -> None:
    house = load_autoencoder("house")
    assert (house.spec.sample_rate, house.spec.hop, house.spec.channels) == (44_100, 1024, 64)
    assert isinstance(house, VocosAutoencoder)
    assert 8e6 < sum(parameter.numel() for parameter in house.model.parameters()) < 15e6
    assert HOUSE_WEIGHTS.stat().st_size < 40e6


def _saved(folder: Path) -> VocosAutoencoder:
    torch.manual_seed(0)
    save_vocos(Vocos(TINY), folder / "tiny.safetensors", training={})
    return VocosAutoencoder.load(folder / "tiny.safetensors")


def _config(folder: Path, name: str, *, steps: int, stop: int | None = None) -> AutoencoderTrainConfig:
    settings = {
        "source": str(folder / "music"),
        "pcm": str(folder / "pcm"),
        "out": str(folder / name),
        "model": {"n_fft": 512, "fine": (16, 32, 1), "coarse": (16, 32, 1), "latent_channels": 4},
        "steps": stop or steps,
        # A run that is stopped early must have had the rates of the whole one: no decay before the end.
        "decay_steps": 0,
        "warmup_steps": 2,
        "batch_size": 2,
        "excerpt_seconds": 0.2,
        "lr": 2e-3,
        "threads": 1,
        "log_every": 1,
    }
    return AutoencoderTrainConfig.model_validate(settings)


def _quiet(_: str) -> None:
    return None
