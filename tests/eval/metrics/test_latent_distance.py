"""Distances in latent space: L1 in standard deviations, and the Fréchet distance known for Gaussians."""

from __future__ import annotations

from functools import reduce
from itertools import permutations
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from known_autoencoders import HOP, Reshaping
from reencoder_eval.metrics.latent import FrechetStatistics, encode_clip, frechet_distance
from reencoder_eval.metrics.latent_statistics import latent_l1
from reencoder_pipeline.errors import EvaluationError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gaussian(mean: np.ndarray, covariance: np.ndarray, *, count: int = 1000) -> FrechetStatistics:
    return FrechetStatistics(count, mean.astype(float), covariance * (count - 1.0))


def random_covariance(channels: int, *, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((channels, channels))
    return factor @ factor.T


# Latent L1


@pytest.mark.parametrize("channels", [1, 2])
def test_latent_l1_counts_in_standard_deviations(channels: int) -> None:
    autoencoder = Reshaping(scale=torch.arange(1.0, HOP + 1))
    std = np.arange(1.0, HOP + 1) * 0.5
    audio = noise(channels, 640)
    estimate, reference = (encode_clip(one, autoencoder=autoencoder) for one in (audio + 0.25, audio))
    assert latent_l1(estimate, reference, std) == pytest.approx(0.5, rel=1e-5)
    assert latent_l1(reference, reference, std) == 0.0


def test_channels_are_encoded_one_by_one_or_jointly() -> None:
    stereo = noise(2, 640)
    latents = encode_clip(stereo, autoencoder=Reshaping())
    assert latents.shape == (2, HOP, 40)
    np.testing.assert_array_equal(latents[1], stereo[1].reshape(40, HOP).T)
    assert encode_clip(stereo, autoencoder=Reshaping(stereo=True)).shape == (1, HOP, 40)


# Fréchet distance


def test_statistics_are_those_of_numpy() -> None:
    latents = 3 + noise(4, 5, 60)
    statistics = FrechetStatistics.of(latents)
    frames = np.moveaxis(latents, 1, 0).reshape(5, -1).astype(float)
    assert statistics.count == 240
    np.testing.assert_allclose(statistics.mean, frames.mean(axis=1))
    np.testing.assert_allclose(statistics.covariance(), np.cov(frames), rtol=1e-12)


def test_statistics_add_up_in_any_order() -> None:
    clips = [100 * seed + noise(4, 10 * (seed + 1), seed=seed) for seed in range(4)]
    whole = FrechetStatistics.of(np.concatenate(clips, axis=1))
    parts = [FrechetStatistics.of(clip) for clip in clips]
    sums = [reduce(add, order) for order in permutations(parts)]
    for total in (*sums, (parts[0] + parts[1]) + (parts[2] + parts[3])):
        assert total.count == whole.count
        np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(total.scatter, whole.scatter, rtol=1e-10, atol=1e-8)


def test_a_shift_of_the_mean_costs_its_square() -> None:
    covariance = random_covariance(6, seed=0)
    shift = np.array([1.0, -2.0, 0.0, 0.0, 3.0, 0.5])
    distance = frechet_distance(gaussian(shift, covariance), gaussian(np.zeros(6), covariance))
    assert distance == pytest.approx(shift @ shift, rel=1e-10)


def test_diagonal_covariances_cost_the_squares_of_differences_of_deviations() -> None:
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5])
    distance = frechet_distance(gaussian(np.zeros(3), np.diag(a**2)), gaussian(np.zeros(3), np.diag(b**2)))
    assert distance == pytest.approx(np.square(a - b).sum(), rel=1e-10)


def test_a_pair_of_known_covariances_that_do_not_commute() -> None:
    """For 2 x 2, tr((A B)^(1/2)) = sqrt(tr(A B) + 2 sqrt(det(A B)))."""
    a, b = random_covariance(2, seed=1), random_covariance(2, seed=2)
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    distance = frechet_distance(gaussian(np.zeros(2), a), gaussian(np.zeros(2), b))
    assert distance == pytest.approx(np.trace(a) + np.trace(b) - 2 * overlap, rel=1e-9)
    assert np.linalg.norm(a @ b - b @ a) > 0.1


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_symmetric_and_zero_for_equal(seed: int, channels: int) -> None:
    a, b = (FrechetStatistics.of((1 + k) * noise(channels, 40, seed=seed + k)) for k in (0, 1))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, b) > 0
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_in_standard_deviations_the_scale_of_a_channel_does_not_matter() -> None:
    a, b, std = noise(5, 80, seed=0), 0.5 + 2 * noise(5, 80, seed=1), np.array([1.0, 10.0, 0.1, 1e3, 1e-3])
    plain = frechet_distance(FrechetStatistics.of(a), FrechetStatistics.of(b))
    scaled = (FrechetStatistics.of(std[:, None] * latents) for latents in (a, b))
    assert frechet_distance(*scaled, std=std) == pytest.approx(plain, rel=1e-5)


def test_a_constant_channel_is_no_obstacle() -> None:
    latents = noise(3, 50)
    latents[1] = 2.0
    assert frechet_distance(FrechetStatistics.of(latents), FrechetStatistics.of(latents)) == pytest.approx(0, abs=1e-9)


def test_too_few_frames_are_an_error() -> None:
    enough, few = FrechetStatistics.of(noise(8, 9)), FrechetStatistics.of(noise(8, 8))
    assert frechet_distance(enough, enough) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(EvaluationError, match=r"8 frames of 8 channels(.|\n)*at least 9 frames"):
        frechet_distance(few, enough)
    with pytest.raises(EvaluationError, match="8 frames"):
        frechet_distance(enough, few)


def test_unlike_and_broken_latents_are_errors() -> None:
    with pytest.raises(EvaluationError, match="different autoencoders"):
        frechet_distance(FrechetStatistics.of(noise(3, 50)), FrechetStatistics.of(noise(4, 50)))
    with pytest.raises(EvaluationError, match="4 channels, not 3"):
        frechet_distance(FrechetStatistics.of(noise(3, 50)), FrechetStatistics.of(noise(3, 50)), std=np.ones(4))
    for latents in (np.full((3, 50), np.inf), np.zeros((3, 0))):
        with pytest.raises(EvaluationError, match="not finite"):
            FrechetStatistics.of(latents)
