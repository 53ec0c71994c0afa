"""Aero: the published model's sizes and cost, its outputs, its losses, its two kinds of files, its row in the table."""

from __future__ import annotations

import math
import os
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reencoder_eval.baselines.aero.baseline import load_aero
from reencoder_eval.baselines.aero.checkpoint import load_aero_weights, save_aero
from reencoder_eval.baselines.aero.discriminators import MultiScaleDiscriminator
from reencoder_eval.baselines.aero.layers import LocalAttention, Recurrent
from reencoder_eval.baselines.aero.losses import discriminator_loss, feature_loss, generator_losses, stft_loss
from reencoder_eval.baselines.aero.model import Aero, AeroConfig
from reencoder_eval.baselines.aero.training import aero_training
from reencoder_pipeline.errors import CheckpointError, ConfigError, EvaluationError

TINY = AeroConfig(channels=4, n_fft=64, hop=16, strides=(4, 2, 2))


@pytest.fixture(scope="module")
def tiny() -> Aero:
    model = Aero(TINY)
    model.load_state_dict(patterned(model.state_dict()))
    return model.eval().requires_grad_(False)


def patterned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights from a formula, so that another program can have the same."""
    filled = {}
    for index, (name, tensor) in enumerate(sorted(state.items())):
        values = 0.5 * torch.sin(torch.arange(tensor.numel()) * 0.7 + index).reshape(tensor.shape)
        positive = name.endswith(("running_var", "act.a"))
        filled[name] = values.abs() + 0.5 if positive else values if tensor.is_floating_point() else tensor
    return filled


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
    assert discriminator_loss(fake, real).item() == pytest.approx(3 * ((1.5 + 0) / 2 + (0.75 + 0) / 2))
    audio = noise(1, 1, 2048)
    losses = generator_losses(audio, audio, fake, real)
    assert losses["adversarial"].item() == pytest.approx(3 * (0.5 + 4) / 2)
    assert losses["features"] == losses["stft"] == 0


def test_feature_matching_leaves_the_scores_out() -> None:
    """Three rates, four strided layers: six maps each that differ by 1, times 4 / 5 / 3."""
    target = [[torch.zeros(1, 2, 3)] * 7] * 3
    estimate = [[torch.ones(1, 2, 3)] * 6 + [torch.full((1, 1, 3), 100.0)]] * 3
    assert feature_loss(estimate, target).item() == pytest.approx(18 * 4 / 5 / 3)


def test_a_training_step_moves_everything() -> None:
    training = aero_training(channels=4, n_fft=64, hop=16, strides=(4, 2, 2), discriminator_filters=4)
    given, target = training.prepare(noise(2, 2, 4097))
    assert given.shape == (2, 1, 2048)
    assert target.shape == (2, 1, 4096)
    estimate = training.generate(given)
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
    training = aero_training(channels=4, n_fft=64, hop=16, strides=(4, 4), discriminator_filters=4)
    time = torch.arange(8192) / 44_100
    low, high = torch.sin(2 * math.pi * 1000 * time), torch.sin(2 * math.pi * 15_000 * time)
    given, target = training.prepare(torch.stack([2 * low, 2 * high])[None])
    torch.testing.assert_close(target[0, 0], low + high)
    kept = slice(500, 3500)
    torch.testing.assert_close(given[0, 0, kept], low[::2][kept], atol=1e-3, rtol=0)


def test_first_weights_are_a_function_of_the_seed() -> None:
    def first(seed: int) -> Tensor:
        network = aero_training(channels=4, n_fft=64, strides=(4, 4), discriminator_filters=4, seed=seed).generator
        return nn.utils.parameters_to_vector(network.parameters())

    state = torch.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.get_rng_state(), state)


# Files


def test_our_file_gives_the_model_back(tiny: Aero, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (first, second):
        save_aero(path, tiny, training={"steps": 3})
    assert first.read_bytes() == second.read_bytes()
    loaded, audio = load_aero_weights(first), noise(1, 1, 300)
    assert loaded.config == TINY
    assert not loaded.training
    assert torch.equal(loaded(audio), tiny(audio))


def test_damaged_and_foreign_files_are_refused(tiny: Aero, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_aero(path, tiny, training={})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for name, damaged, message in (
        ("flipped.safetensors", bytes(content), "damaged"),
        ("short.safetensors", bytes(content[:1000]), "damaged"),
        ("text.th", b"no checkpoint", "cannot be read"),
        ("ours.th", bytes(content), "cannot be read"),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=message):
            load_aero_weights(tmp_path / name)
    for name in ("none.safetensors", "none.th"):
        with pytest.raises(CheckpointError, match="no such"):
            load_aero_weights(tmp_path / name)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of a baseline"):
        load_aero_weights(tmp_path / "other.safetensors")


@pytest.fixture
def foreign() -> Iterator[Callable[[str, str], type]]:
    """Classes of packages that are not installed; gone when they have been pickled, as on the reader's machine."""
    made: list[str] = []

    def make(module: str, name: str) -> type:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            made.append(".".join(parts[:end]))
            sys.modules.setdefault(made[-1], ModuleType(made[-1]))
        cls = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, cls)
        return cls

    yield make
    for module in made:
        sys.modules.pop(module, None)


def original_package(model: Aero, make: Callable[[str, str], type]) -> dict[str, Any]:
    """In the layout of the original program, with everything that it leaves in its files."""
    config = model.config
    strides, setting = make("omegaconf.listconfig", "ListConfig")(), make("omegaconf.nodes", "AnyNode")()
    strides.__dict__["_content"] = [setting, setting]
    metadata = make("omegaconf.base", "ContainerMetadata")()
    metadata.__dict__.update(ref_type=Any, object_type=dict, key=None, values=defaultdict(dict, {"a": {"b": 1}}))
    args = make("omegaconf.dictconfig", "DictConfig")()
    args.__dict__.update(_metadata=metadata, experiment={"lr": 3e-4, "names": {"set"}}, path=Path("x"))
    settings = {"nfft": config.n_fft, "hop_length": config.hop, "channels": config.channels, "strides": strides}
    settings |= {"lr_sr": config.low_rate, "hr_sr": config.high_rate, "freq_emb": 0.2, "act_func": "snake"}
    generator = {
        "class": make("src.models.aero", "Aero"),
        "args": (),
        "kwargs": settings,
        "state": OrderedDict(model.state_dict()),
    }
    discriminator = {"class": make("src.models.discriminators", "Discriminator"), "state": {"w": torch.zeros(3)}}
    return {
        "models": {"generator": generator, "msd_melgan": discriminator},
        "optimizers": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(5, dtype=torch.float64)}}}},
        "history": [{"train": {"loss": 1.0}}],
        "best_states": {"generator": model.state_dict()},
        "args": args,
    }


def test_a_file_of_the_original_program_is_read(
    tiny: Aero, tmp_path: Path, foreign: Callable[[str, str], type]
) -> None:
    path = tmp_path / "checkpoint.th"
    torch.save(original_package(tiny, foreign), path)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"omegaconf", "src"}]:
        del sys.modules[name]
    loaded, audio = load_aero_weights(path), noise(1, 1, 300)
    assert loaded.config == TINY
    assert torch.equal(loaded(audio), tiny(audio))
    assert not {"omegaconf", "src"} & set(sys.modules)


class Evil:
    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("place", ["args", "state", "everything"])
def test_code_in_a_file_is_not_run(tiny: Aero, tmp_path: Path, foreign: Callable[[str, str], type], place: str) -> None:
    path, trace = tmp_path / "checkpoint.th", tmp_path / "it_ran"
    package: Any = original_package(tiny, foreign)
    for index, evil in enumerate((Evil(os.system, f"touch {trace}"), Evil(eval, f"open({str(trace)!r}, 'w')"))):
        if place == "args":
            package["args"] = evil
        elif place == "state":
            package["models"]["generator"]["state"]["freq_emb.embedding.weight"] = evil
        torch.save(evil if place == "everything" else package, path)
        with pytest.raises(CheckpointError, match="names code that no checkpoint needs") as caught:
            load_aero_weights(path)
        assert str(caught.value.value).endswith(("system", "eval")[index])
        assert not trace.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - the trap works: it does run when it is let
        torch.load(path, weights_only=False)["models"]["none"]
    assert trace.exists()


def test_foreign_code_is_inert_and_is_no_tensor(
    tiny: Aero, tmp_path: Path, foreign: Callable[[str, str], type]
) -> None:
    package = original_package(tiny, foreign)
    package["models"]["generator"]["state"]["freq_emb.embedding.weight"] = foreign("src.models", "Weight")()
    torch.save(package, tmp_path / "checkpoint.th")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_aero_weights(tmp_path / "checkpoint.th")


def change_state(package: dict[str, Any], name: str, tensor: Tensor | None) -> None:
    state = package["models"]["generator"]["state"]
    del state[name]
    if tensor is not None:
        state[name] = tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda package: package.pop("models"), "holds no generator"),
        (lambda package: package["models"]["generator"].update(kwargs=3), "holds no generator"),
        (lambda package: package["models"]["generator"]["kwargs"].update(norm_groups=2), "settings that are not"),
        (lambda package: package["models"]["generator"]["kwargs"].pop("lr_sr"), "no 'lr_sr'"),
        (lambda package: package["models"]["generator"]["kwargs"].update(lr_sr=0), "sizes"),
        (lambda package: change_state(package, "encoder.0.pre_conv.weight", None), "is no Aero"),
        (lambda package: change_state(package, "encoder.1.conv.bias", torch.zeros(3)), "do not fit"),
        (lambda package: change_state(package, "encoder.1.conv.bias", None), "do not fit"),
    ],
)
def test_another_models_file_is_refused(
    tiny: Aero,
    tmp_path: Path,
    foreign: Callable[[str, str], type],
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    package = original_package(tiny, foreign)
    change(package)
    torch.save(package, tmp_path / "checkpoint.th")
    with pytest.raises(CheckpointError, match=message):
        load_aero_weights(tmp_path / "checkpoint.th")


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
