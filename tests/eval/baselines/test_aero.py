"""Aero: the published model's sizes and cost, its outputs, its losses, its two kinds of files, its row in the table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reencoder_eval.baselines.aero.baseline import load_aero
from reencoder_eval.baselines.aero.checkpoint import save_aero
from reencoder_eval.baselines.aero.discriminators import MultiScaleDiscriminator
from reencoder_eval.baselines.aero.layers import LocalAttention, Recurrent
from reencoder_eval.baselines.aero.losses import aero_losses, feature_loss, hinge_loss_of_discriminator, stft_loss
from reencoder_eval.baselines.aero.model import Aero, AeroConfig
from reencoder_eval.baselines.aero.training import aero_training
from reencoder_pipeline.errors import ConfigError, EvaluationError
from tiny_aero import TINY, noise

# The published model


def test_the_tensors_are_those_of_the_published_checkpoints() -> None:
    model = Aero(AeroConfig())
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == 331
    assert sum(parameter.numel() for parameter in model.parameters()) == 19_432_958
    expected = {
        "encoder.0.pre_conv.weight": (48, 2, 1, 1),
        "encoder.0.freq_attn_block.conv1d.0.weight": (48, 1280, 9),
        "encoder.0.freq_attn_block.freq_fc.weight": (256, 256),
        "encoder.0.dconv.layers.0.act.a": (64,),
        "encoder.2.dconv.layers.0.lstm.lstm.weight_ih_l0": (192, 48),
        "decoder.0.conv_tr.weight": (768, 192, 8, 1),
        "freq_emb.embedding.weight": (64, 48),
    }
    assert {name: shapes.get(name) for name in expected} == expected


def test_a_second_costs_what_the_literature_says() -> None:
    baseline = load_aero(weights=None, device="cpu")
    assert baseline.run is None
    assert baseline.count is not None
    count = baseline.count()
    assert count.gflops == pytest.approx(85.34, rel=0.01)


def test_the_discriminator_has_its_published_size() -> None:
    parameters = MultiScaleDiscriminator().parameters()
    assert sum(parameter.numel() for parameter in parameters) == 16_924_086


def test_outputs_are_those_of_the_original_program(tiny: Aero) -> None:
    """The numbers come from slp-rl/aero at a76210b with the same sizes, weights and input."""
    time = torch.arange(1843)
    output = tiny((0.2 * torch.sin(0.05 * time) + 0.1 * torch.sin(1.1 * time))[None, None])
    assert output.shape == (1, 1, 3686)
    places = [0, 1, 500, 1777, 3000, 3685]
    expected = [-0.00399854, 0.00650288, 0.00900879, -0.00107655, -0.02838937, -0.00749643]
    torch.testing.assert_close(output[0, 0, places], torch.tensor(expected), atol=3e-7, rtol=0)


# What it promises


@pytest.mark.parametrize("num_samples", [1, 7, 32, 33, 257, 1000])
def test_twice_as_many_samples_come_out(tiny: Aero, num_samples: int) -> None:
    output = tiny(noise(2, 1, num_samples))
    assert output.shape == (2, 1, 2 * num_samples)
    assert output.isfinite().all()


def test_other_rates_give_other_factors() -> None:
    model = Aero(AeroConfig(channels=4, n_fft=64, hop=16, strides=(4, 4), low_rate=11_025)).eval()
    with torch.inference_mode():
        assert model(noise(1, 1, 101)).shape == (1, 1, 404)


def test_a_gain_passes_through_and_silence_stays(tiny: Aero) -> None:
    audio = noise(1, 1, 500)
    torch.testing.assert_close(tiny(4 * audio), 4 * tiny(audio), rtol=1e-3, atol=1e-4)
    assert torch.equal(tiny(torch.zeros(1, 1, 500)), torch.zeros(1, 1, 1000))


def test_items_of_a_batch_do_not_depend_on_each_other(tiny: Aero) -> None:
    audio = noise(3, 1, 500) * torch.tensor([1.0, 10.0, 0.0])[:, None, None]
    alone = torch.cat([tiny(item[None]) for item in audio])
    torch.testing.assert_close(tiny(audio), alone, rtol=1e-4, atol=1e-6)


def test_stereo_is_refused(tiny: Aero) -> None:
    with pytest.raises(AssertionError, match="mono"):
        tiny(noise(1, 2, 500))


def test_input_and_output_are_in_step(tiny: Aero) -> None:
    audio = torch.zeros(1, 1, 800)
    audio[..., 333] = 1.0
    output = tiny.synthesise(tiny.analyse(audio))[0, 0]
    centre = (output.square() * torch.arange(len(output))).sum() / output.square().sum()
    assert centre.item() == pytest.approx(2 * 333, abs=2)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"channels": 6}, "channels"),
        ({"low_rate": 16_000}, "high_rate"),
        ({"low_rate": 88_200}, "high_rate"),
        ({"hop": 127}, "hop"),
        ({"n_fft": 96}, "strides"),
        ({"strides": (1, 3)}, "not even"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        AeroConfig(**sizes)


@torch.inference_mode()
def test_long_audio_passes_the_recurrent_layer_in_windows() -> None:
    layer = Recurrent(4)
    x = noise(2, 4, 333)
    output = layer(x) - x
    assert torch.allclose(layer(x[..., :200])[..., :150], layer(x)[..., :150], atol=1e-6)
    middle = layer(x[..., 100:300]) - x[..., 100:300]
    torch.testing.assert_close(output[..., 150:250], middle[..., 50:150])
    last = torch.cat([x[..., 200:], torch.zeros(2, 4, 67)], dim=-1)
    torch.testing.assert_close(output[..., 250:], (layer(last) - last)[..., 50:133])


@torch.inference_mode()
def test_attention_looks_at_others_and_less_at_those_far_away() -> None:
    layer = LocalAttention(4)
    for part in (layer.query, layer.key):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    nn.init.zeros_(layer.query_decay.weight)
    nn.init.zeros_(layer.query_decay.bias)  # type: ignore[arg-type] # rates of 1/4: slope (1 + 2 + 3 + 4) / 2 / 4
    x = noise(1, 4, 3)
    content = layer.content(x)[0]
    near, far = math.exp(-1.25), math.exp(-2.5)
    weights = torch.tensor([[0, near, far], [near, 0, near], [far, near, 0]])
    weights /= weights.sum(dim=0)
    expected = x + layer.proj((content @ weights)[None])
    torch.testing.assert_close(layer(x), expected)


# Training


def test_the_stft_loss_of_equal_and_of_half_as_loud_audio() -> None:
    audio = 10 * noise(2, 1, 4096)
    assert stft_loss(audio, audio) == 0
    assert stft_loss(audio / 2, audio).item() == pytest.approx(0.5 * 0.5 + 0.5 * math.log(2), rel=1e-3)
    assert stft_loss(audio, torch.zeros_like(audio)).isfinite()


def test_adversarial_losses_are_hinges() -> None:
    maps = [torch.ones(1, 2, 3)] * 3
    fake, real = [[*maps, torch.tensor([0.5, -3.0])]] * 3, [[*maps, torch.tensor([0.25, 2.0])]] * 3
    assert hinge_loss_of_discriminator(fake, real).item() == pytest.approx(3 * ((1.5 + 0) / 2 + (0.75 + 0) / 2))
    audio = noise(1, 1, 2048)
    losses = aero_losses(audio, audio, fake, real)
    assert losses["adversarial"].item() == pytest.approx(3 * (0.5 + 4) / 2)
    assert losses["features"] == losses["stft"] == 0


def test_feature_matching_leaves_the_scores_out() -> None:
    """Three rates, four strided layers: six maps each that differ by 1, times 4 / 5 / 3."""
    target = [[torch.zeros(1, 2, 3)] * 7] * 3
    estimate = [[torch.ones(1, 2, 3)] * 6 + [torch.full((1, 1, 3), 100.0)]] * 3
    assert feature_loss(estimate, target).item() == pytest.approx(18 * 4 / 5 / 3)


def test_a_training_step_moves_everything() -> None:
    training = aero_training(AeroConfig(channels=4, n_fft=64, hop=16, strides=(4, 2, 2)), filters=4)
    given, target = training.prepare(noise(2, 2, 4097))
    assert given.shape == (2, 1, 2048)
    assert target.shape == (2, 1, 4096)
    estimate = training.generator(given)
    of_estimate, of_target = training.discriminator(estimate), training.discriminator(target)
    assert [len(maps) for maps in of_target] == [7, 7, 7]
    assert [maps[-1].shape for maps in of_target] == [(2, 1, 16), (2, 1, 8), (2, 1, 4)]
    losses = training.generator_loss(estimate, target, of_estimate, of_target)
    assert set(losses) == {"stft", "adversarial", "features"}
    torch.stack(list(losses.values())).sum().backward()
    training.discriminator_loss(training.discriminator(estimate.detach()), of_target).backward()
    for network in (training.generator, training.discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_prepare_gives_what_evaluation_gives() -> None:
    training = aero_training(AeroConfig(channels=4, n_fft=64, hop=16, strides=(4, 4)), filters=4)
    time = torch.arange(8192) / 44_100
    low, high = torch.sin(2 * math.pi * 1000 * time), torch.sin(2 * math.pi * 15_000 * time)
    given, target = training.prepare(torch.stack([2 * low, 2 * high])[None])
    torch.testing.assert_close(target[0, 0], low + high)
    kept = slice(500, 3500)
    torch.testing.assert_close(given[0, 0, kept], low[::2][kept], atol=1e-3, rtol=0)


def test_first_weights_are_a_function_of_the_seed() -> None:
    def first(seed: int) -> Tensor:
        network = aero_training(AeroConfig(channels=4, n_fft=64, strides=(4, 4)), filters=4, seed=seed).generator
        return nn.utils.parameters_to_vector(network.parameters())

    state = torch.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.get_rng_state(), state)


# The row of the table


@pytest.fixture(scope="module")
def weights(tiny: Aero, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aero") / "tiny.safetensors"
    save_aero(path, tiny, training={})
    return path


@pytest.mark.parametrize("num_samples", [1, 501, 2000, 20_001])
def test_a_clip_comes_out_as_long_as_it_was(weights: Path, num_samples: int) -> None:
    baseline = load_aero(weights=weights, device="cpu")
    assert (baseline.name, baseline.label, baseline.task) == ("aero", "Aero", "bwe")
    assert baseline.run is not None
    output = baseline.run(noise(1, num_samples).numpy(), 44_100)
    assert output.shape == (1, num_samples)
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
    assert output.any()


def test_a_short_clip_is_one_call_of_the_model(weights: Path, tiny: Aero) -> None:
    time = torch.arange(4000)
    low = torch.sin(0.1 * time)[None, None]  # sampled at either rate: no resampler needed
    baseline = load_aero(weights=weights, device="cpu")
    assert baseline.run is not None
    output = baseline.run(torch.sin(0.05 * torch.arange(8000))[None].numpy(), 44_100)
    expected = tiny(low)[0].numpy()
    assert np.abs(output - expected)[:, 1000:-1000].max() < 0.05 * expected.std()


def test_a_clip_of_another_rate_is_refused(weights: Path) -> None:
    baseline = load_aero(weights=weights, device="cpu")
    assert baseline.run is not None
    with pytest.raises(EvaluationError, match="48000 Hz"):
        baseline.run(np.zeros((1, 100), np.float32), 48_000)


def test_the_digest_changes_with_the_weights(tiny: Aero, weights: Path, tmp_path: Path) -> None:
    save_aero(tmp_path / "same.safetensors", tiny, training={})
    save_aero(tmp_path / "other.safetensors", Aero(TINY), training={})
    digests = {
        load_aero(weights=path, device="cpu").digest
        for path in (weights, tmp_path / "same.safetensors", tmp_path / "other.safetensors")
    }
    assert len(digests) == 2
