"""MusicHiFi's discriminator, its losses by hand, and its training recipe."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from reencoder_eval.baselines.adversarial import feature_distance
from reencoder_eval.baselines.musichifi.checkpoint import load_musichifi, save_musichifi
from reencoder_eval.baselines.musichifi.discriminators import BAND_EDGES, PERIODS, WINDOWS, Discriminator
from reencoder_eval.baselines.musichifi.losses import (
    generator_loss,
    mel_spectrum_l1,
    squared_loss_of_discriminator,
)
from reencoder_eval.baselines.musichifi.mel import spectrum
from reencoder_eval.baselines.musichifi.model import SAMPLE_RATE, MusicHiFi, MusicHiFiTask
from reencoder_eval.baselines.musichifi.training import low_band_and_mono, musichifi_training
from reencoder_pipeline.audio.mel import mel_filters
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.errors import TrainingError
from tiny_musichifi import TASKS, noise

# --- the discriminator and the losses


def test_feature_maps_of_the_discriminator() -> None:
    discriminator = Discriminator(filters=2)
    maps = discriminator(torch.from_numpy(noise(3, 1, 4_097)))
    assert len(maps) == len(PERIODS) + len(WINDOWS)
    for period, found in zip(PERIODS, maps[: len(PERIODS)], strict=True):
        length = -(-4_097 // period)
        shapes = [(3, 2 * width, length := -(-length // 3), period) for width in (1, 4, 16, 32)]
        assert [tuple(layer.shape) for layer in found] == [*shapes, shapes[-1], (3, 1, length, period)]
    for window, found in zip(WINDOWS, maps[len(PERIODS) :], strict=True):
        frames = -(-4_097 // (window // 4))
        edges = [int(edge * (window // 2 + 1)) for edge in BAND_EDGES]
        last = 0
        for band, (low, high) in enumerate(pairwise(edges)):
            bins = high - low
            widths = [bins] + [bins := -(-bins // 2) for _ in range(3)]
            assert [tuple(layer.shape) for layer in found[5 * band : 5 * band + 5]] == [
                (3, 2, frames, width) for width in (*widths, bins)
            ]
            last += bins
        assert tuple(found[-1].shape) == (3, 1, frames, last)
        assert len(found) == 26


def test_parameters_of_the_discriminator() -> None:
    """Weights as (out, in, kernel), a bias and a length for each output channel."""

    def layer(before: int, after: int, taps: int) -> int:
        return after * (before * taps + 2)

    widths = (1, 32, 128, 512, 1024, 1024)
    period = sum(layer(a, b, 5) for a, b in pairwise(widths)) + layer(1024, 1, 3)
    band = layer(2, 32, 27) + 3 * layer(32, 32, 27) + layer(32, 32, 9)
    with torch.device("meta"):
        discriminator = Discriminator()
    found = sum(parameter.numel() for parameter in discriminator.parameters())
    assert found == 5 * period + 3 * (5 * band + layer(32, 1, 9)) == 42_519_760


def test_the_discriminator_does_not_hear_level_or_its_neighbours() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(filters=2)
    audio = torch.from_numpy(noise(2, 1, 3_000))
    together, louder = discriminator(audio), discriminator(3 * audio + 0.5)
    alone = discriminator(audio[:1])
    for a, b, c in zip(together, louder, alone, strict=True):
        torch.testing.assert_close(a[-1], b[-1], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(a[-1][:1], c[-1], atol=1e-5, rtol=1e-4)
    assert all(torch.isfinite(maps[-1]).all() for maps in discriminator(torch.zeros(1, 1, 3_000)))


def test_adversarial_losses_by_hand() -> None:
    fake = [[torch.zeros(2, 3), torch.full((2, 1), 0.5)], [torch.ones(4), torch.zeros(1)]]
    real = [[torch.full((2, 3), 2.0), torch.ones(2, 1)], [torch.full((4,), 1.5), torch.full((1,), 3.0)]]
    assert feature_distance(fake, real).item() == pytest.approx(2 + 0.5)
    assert squared_loss_of_discriminator(fake, real).item() == pytest.approx(0.25 + 0 + 0 + 4)
    audio = 10 * torch.from_numpy(noise(1, 1, 2_000))  # loud enough to stay off the floor
    terms = generator_loss(audio, 10 * audio, fake, real)
    assert terms["adversarial"].item() == pytest.approx(0.25 + 1)
    assert terms["matching"].item() == pytest.approx(2.5)
    assert terms["mel"].item() == pytest.approx(360 * 7, rel=1e-4)  # a decade at each of seven resolutions
    assert generator_loss(audio, 10 * audio, [], []) == {"mel": terms["mel"]}


def test_mel_distance_is_silence_safe() -> None:
    silence = torch.zeros(1, 1, 2_000, requires_grad=True)
    distance = mel_spectrum_l1(silence, torch.from_numpy(noise(1, 1, 2_000)))
    distance.backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()
    assert mel_spectrum_l1(silence, silence).item() == 0
    assert (mel_filters(2048, bands=320, sample_rate=SAMPLE_RATE).sum(dim=1) > 0).all()


def test_a_spectrum_is_that_of_its_window() -> None:
    audio, window = torch.from_numpy(noise(1, 1, 640)), torch.hann_window(64)
    frames = spectrum(audio, window=window, hop=16)
    assert frames.shape == (1, 33, 40)
    torch.testing.assert_close(frames[0, :, 10], torch.fft.rfft(window * audio[0, 0, 136:200]), atol=1e-5, rtol=1e-4)


# --- training


@pytest.mark.parametrize("task", TASKS)
def test_a_few_steps_reach_every_weight_and_lower_the_distance(task: MusicHiFiTask) -> None:
    training = musichifi_training(task, channels=64, filters=2, seed=1)
    assert (training.learning_rate, training.betas, training.decay) == (1e-4, (0.8, 0.99), 0.999996)
    source, target = training.prepare(torch.from_numpy(noise(1, 2, 2_048)))
    assert source.shape == target.shape == (1, 1, 2_048)
    optimizer = torch.optim.AdamW(training.generator.parameters(), lr=2e-3, betas=training.betas)
    distances = []
    for step in range(6):
        estimate = training.generator(source)
        of_estimate, of_target = training.discriminator(estimate), training.discriminator(target)
        terms = training.generator_loss(estimate, target, of_estimate, of_target)
        distances.append(terms["mel"].item())
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        if step == 0:
            for name, parameter in training.generator.named_parameters():
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name  # noqa: PT018 - which
        optimizer.step()
    assert distances[-1] < 0.9 * distances[0]
    training.discriminator.zero_grad()
    with torch.no_grad():
        estimate = training.generator(source)
    training.discriminator_loss(training.discriminator(estimate), training.discriminator(target)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in training.discriminator.parameters())


def test_training_starts_from_its_seed_and_ends_in_a_baseline(tmp_path: Path) -> None:
    first, same, other = (musichifi_training("bwe", channels=64, filters=2, seed=seed) for seed in (0, 0, 1))
    audio = torch.from_numpy(noise(1, 1, 2_000))
    expected = first.generator(audio)
    torch.testing.assert_close(same.generator(audio), expected, atol=0, rtol=0)
    assert not torch.allclose(other.generator(audio), expected)
    assert isinstance(first.generator, MusicHiFi)
    save_musichifi(tmp_path / "bwe.safetensors", first.generator, training={"steps": 0})
    torch.testing.assert_close(load_musichifi(tmp_path / "bwe.safetensors", task="bwe")(audio), expected)


def test_an_excerpt_has_the_low_band_of_its_track() -> None:
    track = noise(2, 40_000)
    whole = low_band(track.mean(axis=0, keepdims=True), sample_rate=SAMPLE_RATE)
    low, mono = low_band_and_mono(torch.from_numpy(track[None, :, 10_000:20_000]))
    np.testing.assert_allclose(mono[0, 0].numpy(), track.mean(axis=0)[10_000:20_000], atol=1e-7)
    np.testing.assert_allclose(low[0, 0].numpy()[500:-500], whole[0, 10_500:19_500], atol=1e-4)


def test_upmixing_learns_the_side_from_stereo_only() -> None:
    training = musichifi_training("m2s", channels=64, filters=2)
    audio = torch.from_numpy(noise(2, 2, 100))
    mid, side = training.prepare(audio)
    torch.testing.assert_close(torch.cat([mid + side, mid - side], dim=1), audio)
    with pytest.raises(TrainingError, match="stereo"):
        training.prepare(audio[:, :1])
