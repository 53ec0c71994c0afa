"""Every diagnostic against autoencoders and signals with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from known_autoencoders import HOP, RATE, Constant, Magnitude, Reshaping
from reencoder_eval.autoencoder_report.diagnostics import (
    GAIN,
    NOISE_SIZES,
    SHIFTS,
    diagnose,
    proximity,
    spearman,
)
from reencoder_eval.autoencoder_report.evaluate_autoencoder import finite
from reencoder_eval.autoencoder_report.latent_figure import latent_figure
from reencoder_eval.autoencoder_report.perturbations import KINDS, STRENGTHS, perturbations
from reencoder_eval.autoencoder_report.readings import NOT_AVAILABLE, NOT_MEASURED, readings
from reencoder_eval.clips.excerpts import Excerpt, load_excerpts
from reencoder_eval.clips.read import Clip
from reencoder_eval.metrics.latent_statistics import affine_fit, channel_statistics, channels_that_carry, effective_rank
from reencoder_eval.metrics.spectral import level_dbfs
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.errors import EvaluationError

LENGTH = 1024 * HOP  # samples


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def white(seed: int, *, stereo: bool = True) -> Excerpt:
    audio = 0.1 * np.random.default_rng(seed).standard_normal((2, LENGTH)).astype(np.float32)
    mono = audio.mean(axis=0)
    low = low_band(mono[None], sample_rate=RATE)[0]
    return Excerpt(f"white {seed}", mono, low, audio if stereo else None)


@pytest.fixture(scope="module")
def excerpts() -> list[Excerpt]:
    return [white(0), white(1)]


@pytest.fixture(scope="module")
def linear(excerpts: list[Excerpt]) -> dict[str, Any]:
    return diagnose(Reshaping(sigma=0.1), excerpts, seed=0, device="cpu")


def test_white_noise_through_a_reshaping_is_white_in_channels_and_time(linear: dict[str, Any]) -> None:
    channels, expected = linear["channels"], 0.1 / np.sqrt(2)
    assert channels["mean"] == pytest.approx([0] * HOP, abs=0.01)
    assert channels["std"] == pytest.approx([expected] * HOP, rel=0.1)
    assert channels["excess_kurtosis"] == pytest.approx([0] * HOP, abs=0.6)
    assert channels["lag1"] == pytest.approx([0] * HOP, abs=0.1)
    assert channels["upper_half"] == pytest.approx([0.5] * HOP, abs=0.1)
    assert channels["mean_predictor_l1"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.02)
    assert channels["effective_rank"] > 0.98 * HOP
    np.testing.assert_allclose(channels["correlation"], np.eye(HOP), atol=0.1)


def test_a_linear_autoencoder_has_no_gain_or_mixing_error(linear: dict[str, Any]) -> None:
    assert linear["gain"]["gain"] == GAIN
    assert linear["gain"]["error"] == pytest.approx(0, abs=1e-6)
    assert linear["gain"]["affine_error"] == pytest.approx(0, abs=1e-6)
    assert linear["mixing"] is not None
    assert linear["mixing"]["clips"] == 2
    assert linear["mixing"]["error"] == pytest.approx(0, abs=1e-6)
    assert linear["mixing"]["one_side"] == pytest.approx(1, rel=0.02)  # left differs by half of right
    assert linear["mixing"]["stft_d_mixed"] == pytest.approx(linear["mixing"]["stft_d_mono"], abs=1e-3)


def test_the_decoder_noise_curve_starts_at_the_reconstruction_and_rises(linear: dict[str, Any]) -> None:
    sizes, distances = zip(*linear["noise_stft_d"], strict=True)
    assert sizes == NOISE_SIZES
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert list(distances) == sorted(distances)
    assert distances[-1] > 0.2


def test_shifting_white_noise_makes_other_latents_altogether(linear: dict[str, Any]) -> None:
    assert [shift for shift, _ in linear["shift_l1"]] == list(SHIFTS)
    for _, l1 in linear["shift_l1"]:  # two independent Gaussian values differ by 2 / sqrt(pi) standard deviations
        assert l1 == pytest.approx(2 / np.sqrt(np.pi), rel=0.03)


def test_the_posterior_is_read_where_there_is_one(linear: dict[str, Any], excerpts: list[Excerpt]) -> None:
    assert linear["posterior"] is not None
    assert linear["posterior"]["sigma"] == pytest.approx([0.1] * HOP)
    assert linear["posterior"]["unused"] == 0
    nats = 0.5 * (np.square(0.1) / 2 + 0.01 - 1) - np.log(0.1)
    assert linear["posterior"]["nats_per_frame"] == pytest.approx(HOP * nats, rel=0.01)
    wide = diagnose(Reshaping(sigma=0.95), excerpts, seed=0, device="cpu")
    assert wide["posterior"] is not None
    assert wide["posterior"]["unused"] == HOP
    assert diagnose(Reshaping(), excerpts, seed=0, device="cpu")["posterior"] is None


def test_the_high_band_is_found_in_the_channels_that_hold_it() -> None:
    times = np.arange(LENGTH)
    # A tone at 15/32 of the rate has other values in every channel; silence in all but two after the gate.
    tone = 0.2 * np.sin(2 * np.pi * 15 / 32 * times) * np.isin(times % HOP, (3, 4))
    mono = tone.astype(np.float32)
    excerpt = Excerpt("tone", mono, np.zeros_like(mono), None)
    found = diagnose(Reshaping(), [excerpt], seed=0, device="cpu")["high_band"]
    assert sorted(found["order"][:2]) == [3, 4]
    assert found["carrying"] == 2
    assert sum(value > 0 for value in found["l1"]) == 2


def test_proximity_is_high_where_latents_are_the_sound(linear: dict[str, Any]) -> None:
    found = linear["proximity"]
    assert found["perturbations"] == (len(KINDS) + 1) * STRENGTHS
    assert [kind["kind"] for kind in found["kinds"]] == [*KINDS, "latent noise"]
    assert found["lowest"] is not None
    assert found["spearman"] is not None
    assert found["highest"] is not None
    assert -1 <= found["lowest"] <= found["spearman"] <= found["highest"] <= 1


def test_proximity_ranks_within_each_clip() -> None:
    rising = [("a", float(n), float(n) ** 3) for n in range(5)]
    found = proximity([rising, [(kind, 100 * l1, distance) for kind, l1, distance in rising]])
    assert (found["spearman"], found["lowest"]) == pytest.approx((1.0, 1.0))  # whatever the scale of a clip
    falling = [(kind, l1, -distance) for kind, l1, distance in rising]
    assert proximity([rising, falling])["spearman"] == pytest.approx(0.0)
    assert proximity([[("a", 1.0, 2.0)] * 3])["spearman"] is None
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_a_constant_autoencoder_is_measured_without_a_number_that_is_not_one(excerpts: list[Excerpt]) -> None:
    found = diagnose(Constant(sigma=1.0), excerpts, seed=0, device="cpu")
    assert found["channels"]["std"] == pytest.approx([0] * HOP)
    assert found["channels"]["mean"] == pytest.approx([3] * HOP)
    assert found["channels"]["lag1"] == found["channels"]["excess_kurtosis"] == (None,) * HOP
    assert (found["channels"]["effective_rank"], found["high_band"]["carrying"]) == (0.0, 0)
    assert found["gain"]["error"] == pytest.approx(GAIN)  # 3 beside 1.5, of 3
    assert found["gain"]["affine_error"] == pytest.approx(0)
    assert found["mixing"] is not None
    assert found["mixing"]["error"] is None
    assert [l1 for _, l1 in found["shift_l1"]] == [0.0] * len(SHIFTS)
    assert np.isfinite([distance for _, distance in found["noise_stft_d"]]).all()
    lines = {line.name: line.value for line in readings(finite(found))}
    assert lines["Autocorrelation at lag 1"] == NOT_MEASURED
    assert lines["Mixing error"].startswith(NOT_MEASURED)
    latent_figure(finite(found), title="constant")  # draws


def test_what_an_affine_map_explains_is_told_apart(excerpts: list[Excerpt]) -> None:
    found = diagnose(Magnitude(), excerpts, seed=0, device="cpu")
    assert found["gain"]["error"] is not None
    assert found["gain"]["error"] > 0.4  # |g x| + 1 beside g |x| + g
    assert found["gain"]["affine_error"] == pytest.approx(0, abs=1e-5)
    assert found["mixing"] is not None
    assert found["mixing"]["error"] is not None
    assert found["mixing"]["error"] > 0.3


def test_affine_fit_is_per_channel() -> None:
    source = np.random.default_rng(0).standard_normal((2, 3, 50))
    target = source * np.array([1.0, -2.0, 0.0])[:, None] + np.array([0.0, 5.0, 7.0])[:, None]
    np.testing.assert_allclose(affine_fit(source, target), target, atol=1e-9)


def test_joint_stereo_is_averaged(excerpts: list[Excerpt]) -> None:
    found = diagnose(Reshaping(stereo=True), excerpts, seed=0, device="cpu")
    assert found["noise_stft_d"][0][1] == pytest.approx(0, abs=1e-6)


def test_without_a_stereo_clip_mixing_is_not_measured(excerpts: list[Excerpt]) -> None:
    found = diagnose(Reshaping(), [replace(one, stereo=None) for one in excerpts], seed=0, device="cpu")
    assert found["mixing"] is None
    lines = {line.name: line.value for line in readings(finite(found))}
    assert lines["Mixing error"].startswith(NOT_MEASURED)
    assert lines["Posterior sigma"] == NOT_AVAILABLE


def test_the_seed_decides_and_nothing_else(excerpts: list[Excerpt], linear: dict[str, Any]) -> None:
    assert diagnose(Reshaping(sigma=0.1), excerpts, seed=0, device="cpu") == linear
    other = diagnose(Reshaping(sigma=0.1), excerpts, seed=1, device="cpu")
    assert other["channels"] == linear["channels"]
    assert other["noise_stft_d"] != linear["noise_stft_d"]


def test_no_excerpt_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no excerpt"):
        diagnose(Reshaping(), [], seed=0, device="cpu")


def test_time_structure_is_seen() -> None:
    random = np.random.default_rng(0)
    slow = np.repeat(random.standard_normal((3, 1, 100)), 2, axis=-1)  # every value twice: correlation 1/2 at lag 1
    alternating = np.tile([1.0, -1.0], 100) + 0 * slow
    found = channel_statistics(np.concatenate([slow, alternating], axis=1))
    assert found.lag1[0] == pytest.approx(0.5, abs=0.1)
    assert found.lag1[1] == pytest.approx(-1.0, abs=0.01)
    assert found.upper_half[0] == pytest.approx(0.5 - 1 / np.pi, abs=0.05)  # sinc^2-shaped: cos^2 over the upper half
    assert found.upper_half[1] == pytest.approx(1.0, abs=1e-6)


def test_clips_are_not_neighbours_in_time() -> None:
    ends = np.zeros((2, 1, 50))
    ends[0, 0, -1] = ends[1, 0, 0] = 5.0
    assert channel_statistics(ends).lag1[0] == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    ("eigenvalues", "expected"), [([1, 1, 1, 1], 4), ([1, 0, 0], 1), ([0, 0], 0), ([3, 1], 4 / 3**0.75)]
)
def test_effective_rank(eigenvalues: list[float], expected: float) -> None:
    assert effective_rank(np.diag(np.array(eigenvalues, dtype=float))) == pytest.approx(expected)


def test_scaling_a_channel_lowers_the_rank_of_the_covariance_alone(excerpts: list[Excerpt]) -> None:
    scale = torch.ones(HOP)
    scale[0] = 100
    found = diagnose(Reshaping(scale=scale), excerpts, seed=0, device="cpu")["channels"]
    assert found["effective_rank"] < 2
    assert found["effective_rank_correlation"] > 0.98 * HOP


@pytest.mark.parametrize(("amounts", "count"), [([1, 1, 1, 1, 1], 4), ([0, 0], 0), ([8, 1, 1], 1), ([0, 5, 5], 2)])
def test_channels_that_carry(amounts: list[float], count: int) -> None:
    assert channels_that_carry(amounts) == count


def test_perturbations_go_from_little_to_much_and_repeat() -> None:
    audio = white(3).mono
    first, second = (list(perturbations(RATE, np.random.default_rng(5))) for _ in range(2))
    for (_, apply), (_, other) in zip(first, second, strict=True):
        changed = apply(audio)
        assert changed.shape == audio.shape
        assert changed.dtype == np.float32
        assert not np.array_equal(changed, audio)
        np.testing.assert_array_equal(changed, other(audio))
    noises = [level_dbfs(apply(audio) - audio) for kind, apply in first if kind == "noise"]
    assert noises == sorted(noises)
    assert noises[0] > level_dbfs(audio) - 51
    assert noises[-1] < level_dbfs(audio) - 19


def test_excerpts_are_the_beginnings_of_clips(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    audio = 0.1 * random.standard_normal((2 * RATE, 2))
    files = {"wide": audio, "narrow": audio[:, [0, 0]], "silent": 1e-6 * audio, "single": audio[:, :1]}
    for name, samples in files.items():
        soundfile.write(str(tmp_path / f"{name}.wav"), samples, RATE, subtype="FLOAT")
    clips = [Clip(name, tmp_path / f"{name}.wav", 1000, RATE, RATE) for name in (*files, "absent")]
    found = load_excerpts(clips, seconds=0.5, spec=Reshaping().spec, resampler="soxr_vhq")
    assert [one.id.split(" at ")[0] for one in found] == ["wide", "narrow", "single"]
    assert [one.stereo is not None for one in found] == [True, False, False]
    assert {len(one.mono) for one in found} == {int(0.5 * RATE) // HOP * HOP}
    np.testing.assert_allclose(found[0].mono, audio[1000:][: len(found[0].mono)].mean(axis=1), atol=1e-6)


def test_directions_in_use_are_counted(linear: dict[str, Any]) -> None:
    diagnostics = finite(linear)
    assert {line.name: line.value for line in readings(diagnostics)}["Directions in use"] == f"{HOP} of {HOP}"
    repeated = np.kron(np.eye(4), np.ones((HOP // 4, HOP // 4)))  # four signals, each in four channels
    diagnostics["channels"]["correlation"] = repeated.tolist()
    line = next(line for line in readings(diagnostics) if line.name == "Directions in use")
    assert line.value == f"4 of {HOP}"
    assert "repeat each other" in line.reading
