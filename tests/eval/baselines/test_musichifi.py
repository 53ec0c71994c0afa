"""MusicHiFi: the published cost, what is copied and what is in step, no seams, weights files, losses, one training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from reencoder_eval.baselines.baseline import load_baseline
from reencoder_eval.baselines.in_segments import run_in_segments
from reencoder_eval.baselines.musichifi import baseline as musichifi
from reencoder_eval.baselines.musichifi.checkpoint import load_musichifi, save_musichifi
from reencoder_eval.baselines.musichifi.generator import Generator, GeneratorSizes, SmoothActivation, kaiser_low_pass
from reencoder_eval.baselines.musichifi.mel import FLOOR, LogMel
from reencoder_eval.baselines.musichifi.model import HOP, SAMPLE_RATE, MusicHiFi, MusicHiFiTask
from reencoder_eval.baselines.weights import build_restored, read_baseline, save_baseline
from reencoder_eval.metrics.flops import count_flops
from reencoder_pipeline.audio.resampling import low_band, resample
from reencoder_pipeline.errors import CheckpointError, EvaluationError
from tiny_musichifi import TASKS, TINY, noise, saved, tiny

# --- what is published


def test_parameters_as_published() -> None:
    """46.63 M with the lengths that weight norm adds while training, one for each channel; 46.62 M without."""
    with torch.device("meta"):
        generator = Generator(GeneratorSizes())
    assert sum(parameter.numel() for parameter in generator.parameters()) == 46_616_976
    lengths = sum(len(part.weight) for part in generator.modules() if isinstance(part, nn.Conv1d | nn.ConvTranspose1d))
    assert lengths == 13_633
    assert round((46_616_976 + lengths) / 1e6, 2) == 46.63


def test_gflops_as_published() -> None:
    with torch.device("meta"):
        generator, mel = Generator(GeneratorSizes()), torch.zeros(1, 128, 172)
    count = count_flops(generator, mel, modules=[generator], seconds=1)
    assert count.gflops == pytest.approx(111.05, abs=0.02)


@pytest.mark.parametrize(
    ("name", "task", "gflops"), [("musichifi_bwe", "bwe", 111.05), ("musichifi_m2s", "m2s", 222.1)]
)
def test_without_weights_there_is_a_cost_and_no_scores(name: str, task: str, gflops: float) -> None:
    baseline = load_baseline(name, task=task)
    assert (baseline.name, baseline.task, baseline.run) == (name, task, None)
    assert baseline.count is not None
    count = baseline.count()
    assert count.gflops == pytest.approx(gflops, rel=0.01)
    assert count.parameters == 46_616_976
    assert (count.note is not None) == (task == "m2s")
    assert task == "bwe" or "is 111" in (count.note or "")


# --- the generator


@pytest.mark.parametrize(
    ("sizes", "context"),
    [
        (TINY, 15),  # as published: channels do not matter
        (GeneratorSizes(channels=8, mel_bands=4, rates=(8, 8, 4), block_kernels=(3, 5), dilations=(1,)), 5),
    ],
)
def test_a_sample_depends_on_its_frame_and_its_context(sizes: GeneratorSizes, context: int) -> None:
    """By gradients, in which the smallest influence shows; equally far to both sides: the output is in step."""
    assert sizes.context == context
    torch.manual_seed(0)
    middle = context + 2
    mel = torch.randn(1, sizes.mel_bands, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    samples = Generator(sizes).double()(mel)[0, 0].unflatten(0, (-1, HOP))[middle]
    found = []
    for sample in (samples[0], samples[-1]):
        (gradient,) = torch.autograd.grad(sample, mel, retain_graph=True)
        frames = gradient[0].abs().sum(dim=0).nonzero().flatten() - middle
        found.append((int(frames.min()), int(frames.max())))
    assert found == [(-context, context - 1), (1 - context, context)]


def test_the_filter_of_an_activation() -> None:
    taps = kaiser_low_pass()
    assert taps.sum().item() == pytest.approx(1)
    torch.testing.assert_close(taps, taps.flip(0))
    times = torch.arange(12) - 5.5
    response = [float((taps * torch.cos(2 * math.pi * f * times)).sum()) for f in (0.25, 0.45, 0.5)]
    assert 20 * math.log10(response[0]) == pytest.approx(-6, abs=0.5)
    assert all(abs(value) < 10 ** (-45 / 20) for value in response[1:])


def test_an_activation_is_snake_without_its_aliases() -> None:
    activation = SmoothActivation(2)
    activation.log_frequency.data = torch.tensor([[0.0], [0.5]])
    activation.log_magnitude.data = torch.tensor([[0.0], [-0.3]])
    times = torch.arange(400)

    def both(frequency: float) -> tuple[Tensor, Tensor]:
        x = torch.sin(2 * math.pi * frequency * times).expand(1, 2, -1)
        a, b = activation.log_frequency.exp(), activation.log_magnitude.exp()
        return activation(x)[0, :, 50:350].detach(), (x + (a * x).sin().square() / b)[0, :, 50:350].detach()

    smooth, plain = both(0.01)  # all harmonics fit below Nyquist
    torch.testing.assert_close(smooth, plain, atol=2e-3, rtol=0)
    smooth, plain = both(0.3)  # the second harmonic, 0.6, folds to 0.4; the published filter is a short one
    kernel = torch.exp(2j * math.pi * 0.4 * times[50:350])
    heard, folded = ((signal.to(kernel.dtype) @ kernel).abs() for signal in (smooth, plain))
    assert (heard < 0.3 * folded).all()
    assert folded.min() > 10


# --- the mel input


@pytest.mark.parametrize("task", TASKS)
def test_frames_are_centred_on_their_hop_and_no_band_is_empty(task: MusicHiFiTask) -> None:
    mel = MusicHiFi(task, GeneratorSizes(channels=64)).mel
    assert len(mel.window) == 4 * mel.hop == {"bwe": 512, "m2s": 1024}[task]
    assert mel.filters.shape[0] == 128
    assert (mel.filters.sum(dim=1) > 0).all()
    audio = torch.zeros(1, 1, 9 * mel.hop)
    audio[..., 4 * mel.hop + mel.hop // 2] = 1
    level = mel(audio)[0].mean(dim=0)
    assert len(level) == 9
    assert level.argmax() == 4
    torch.testing.assert_close(level[1:4], level[5:8].flip(0))
    assert level[0].item() == pytest.approx(math.log(FLOOR))  # more than two frames away


@pytest.mark.parametrize(("samples", "frames"), [(1, 2), (256, 2), (257, 3), (384, 3)])
def test_frames_of_short_audio(samples: int, frames: int) -> None:
    mel = LogMel(sample_rate=22_050, window=512, hop=128, bands=16)
    assert mel(torch.ones(2, 1, samples)).shape == (2, 16, frames)


def test_a_tone_lies_in_its_band() -> None:
    mel = LogMel(sample_rate=22_050, window=512, hop=128, bands=128)
    tone = torch.sin(2 * math.pi * 5_000 / 22_050 * torch.arange(4_096))[None, None]
    bin_of_tone = round(5_000 / 22_050 * 512)
    assert mel(tone)[0, :, 16].argmax() == mel.filters[:, bin_of_tone].argmax()


# --- the systems


def test_every_second_sample_of_the_low_band_is_the_signal_at_half_the_rate() -> None:
    """Up to 0.9 of its range, where the resampler's filter begins."""
    times = np.arange(20_001)[None] / SAMPLE_RATE
    tones = [np.sin(2 * np.pi * f * times + f) for f in (500, 5_000, 9_900, 15_000)]
    audio = np.sum(tones, axis=0).astype(np.float32)
    low = low_band(audio, sample_rate=SAMPLE_RATE)
    half = resample(audio, SAMPLE_RATE, SAMPLE_RATE // 2)
    np.testing.assert_allclose(low[:, ::2][:, 500:-500], half[:, 500:-500], atol=1e-4)
    assert np.abs(low[:, 1::2][:, 500:-500] - half[:, 500:-501]).max() > 0.1  # one that is out of step


def test_bandwidth_extension_adds_to_the_sinc_interpolated_input(tmp_path: Path) -> None:
    model = tiny("bwe")
    nn.init.zeros_(model.generator.last.weight)
    save_musichifi(tmp_path / "bwe.safetensors", model, training={})
    run = load_baseline("musichifi_bwe", weights=tmp_path / "bwe.safetensors", task="bwe").run
    assert run is not None
    half = noise(1, 6_000)
    full = resample(half, SAMPLE_RATE // 2, SAMPLE_RATE)
    np.testing.assert_array_equal(run(full, SAMPLE_RATE), full)


def test_upmixing_copies_the_mid(tmp_path: Path) -> None:
    run = load_baseline("musichifi_m2s", weights=saved("m2s", tmp_path), task="m2s").run
    assert run is not None
    mid = noise(1, 5_001)
    left, right = run(mid, SAMPLE_RATE)
    np.testing.assert_allclose((left + right) / 2, mid[0], atol=1e-7)
    with torch.no_grad():
        side = tiny("m2s")(torch.from_numpy(mid)[None])[0, 0].numpy()
    np.testing.assert_allclose((left - right) / 2, side, atol=1e-6)
    assert np.abs(side).max() > 1e-3


@pytest.mark.parametrize("task", TASKS)
def test_segments_cannot_be_told_from_one_call(
    task: MusicHiFiTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(musichifi, "SEGMENT", 6 * HOP)
    baseline = load_baseline(f"musichifi_{task}", weights=saved(task, tmp_path), task=task)
    assert baseline.run is not None
    model = tiny(task)
    assert model.context == 17 * HOP
    audio = noise(1, 90 * HOP + 101)
    x = torch.from_numpy(audio)[None]
    with torch.no_grad():
        whole = model(x)[0].numpy()
    found = baseline.run(audio, SAMPLE_RATE)
    np.testing.assert_allclose(found[:1], whole if task == "bwe" else audio + whole, atol=1e-5)
    seen_too_little = run_in_segments(model, x, segment=6 * HOP, context=3 * HOP, factor=1, multiple=HOP)[0].numpy()
    assert np.abs(seen_too_little - whole).max() > 1e-4


@pytest.mark.parametrize("samples", [1, 2, 255, 5_000])
@pytest.mark.parametrize("task", TASKS)
def test_silence_and_short_audio(task: MusicHiFiTask, samples: int, tmp_path: Path) -> None:
    run = load_baseline(f"musichifi_{task}", weights=saved(task, tmp_path), task=task).run
    assert run is not None
    output = run(np.zeros((1, samples), dtype=np.float32), SAMPLE_RATE)
    assert output.shape == (1 if task == "bwe" else 2, samples)
    assert output.dtype == np.float32
    assert np.isfinite(output).all()


def test_another_sample_rate_is_refused(tmp_path: Path) -> None:
    run = load_baseline("musichifi_bwe", weights=saved("bwe", tmp_path), task="bwe").run
    assert run is not None
    with pytest.raises(EvaluationError, match="48000 Hz"):
        run(noise(1, 100), 48_000)


# --- weights


def test_weights_survive_a_file_and_weight_norm_is_multiplied_out(tmp_path: Path) -> None:
    model = tiny("m2s")
    path = saved("m2s", tmp_path)
    audio = torch.from_numpy(noise(1, 1, 3_000))
    for part in model.modules():
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(part)
    normed = tmp_path / "normed.safetensors"
    save_musichifi(normed, model, training={"steps": 3})
    for file in (path, normed):
        loaded = load_musichifi(file, task="m2s")
        assert (loaded.task, loaded.generator.sizes, loaded.training) == ("m2s", TINY, False)
        torch.testing.assert_close(loaded(audio), model(audio), atol=1e-6, rtol=1e-5)
    assert read_baseline(path, kind="musichifi_m2s")[2] == {"steps": 3}
    assert path.read_bytes() == saved("m2s", tmp_path).read_bytes()


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    path = saved("bwe", tmp_path)
    before = load_baseline("musichifi_bwe", weights=path, task="bwe").digest
    model = tiny("bwe")
    nn.init.zeros_(model.generator.last.weight)
    save_musichifi(path, model, training={})
    after = load_baseline("musichifi_bwe", weights=path, task="bwe").digest
    assert len({before, after, load_baseline("musichifi_bwe", task="bwe").digest}) == 3


def test_what_is_wrong_with_a_weights_file(tmp_path: Path) -> None:
    path = saved("bwe", tmp_path)

    def refuses(message: str, file: Path = path, kind: str = "musichifi_bwe") -> None:
        with pytest.raises(CheckpointError, match=message):
            read_baseline(file, kind=kind)

    refuses("another baseline", kind="musichifi_m2s")
    refuses("does not exist", tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("weights")
    refuses("not a safetensors file", tmp_path / "text")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    refuses("not the weights of a baseline", tmp_path / "foreign.safetensors")
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    refuses("damaged")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Sizes:
        width: int = 3

    good = nn.Linear(2, 3).state_dict()
    for state, message in (
        ({"weight": good["weight"]}, "bias: missing"),
        ({**good, "scale": torch.zeros(1)}, "scale: unknown"),
        ({**good, "bias": torch.zeros(4)}, r"bias: \(4,\), not \(3,\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            build_restored(lambda: nn.Linear(2, 3), Sizes(), state, where=tmp_path)
    for sizes, message in (({"channel": 64}, "sizes"), ({"rates": [4, 4]}, "sizes"), ({"channels": 128}, "do not fit")):
        path = tmp_path / "odd.safetensors"
        save_baseline(path, tiny("bwe").generator.state_dict(), kind="musichifi_bwe", sizes=sizes, training={})
        with pytest.raises(CheckpointError, match=message):
            load_musichifi(path, task="bwe")
