"""The mel loss through a frozen decoder: what it decodes, which side learns, and which autoencoder it accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reencoder_pipeline.audio.mel import mel_filterbanks
from reencoder_pipeline.autoencoders.vocos.training.losses import mel_loss
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import AutoencoderError, CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_trainer.module.normalisation import Scaling
from reencoder_trainer.training.decoded_mel import DecodedMel, load_decoded_mel
from tiny_cache import write_cache

CPU = torch.device("cpu")
CHANNELS, HOP = 4, 256


class LinearAutoencoder:
    """Each frame becomes `HOP` samples by one fixed matrix; remembers what it was given to decode."""

    context, local, licence = 0, True, "MIT"

    def __init__(self) -> None:
        self.spec = LatentSpec("linear", "1" * 64, sample_rate=44_100, hop=HOP, channels=CHANNELS)
        self.decoded: list[Tensor] = []
        self._matrix = torch.randn(CHANNELS, HOP, generator=torch.Generator().manual_seed(0)) / 10

    def encode(self, audio: Tensor) -> Tensor:
        raise AssertionError("a mel loss encodes nothing")

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(latents)
        return (latents.transpose(1, 2) @ self._matrix).flatten(1)[:, None]  # (B, C, T) -> (B, T, hop) -> (B, 1, L)


class OpaqueAutoencoder(LinearAutoencoder):
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents.detach())


class SilencedAutoencoder(LinearAutoencoder):
    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents)


def load_linear(device: str) -> LinearAutoencoder:
    assert device == "cpu"
    return LinearAutoencoder()


def scaling(streams: int = 1) -> Scaling:
    generator = torch.Generator().manual_seed(1)
    shape = (streams * CHANNELS, 1)
    return Scaling(torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) + 0.5)


def latents(*, seed: int, streams: int = 1, batch: int = 2) -> Tensor:
    return torch.randn(batch, streams * CHANNELS, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("streams", [1, 2])
def test_zero_for_equal_latents_and_more_the_farther_they_are(streams: int) -> None:
    distance = DecodedMel(LinearAutoencoder(), scaling(streams), device=CPU)
    reference, error = latents(seed=2, streams=streams), latents(seed=3, streams=streams)
    near, far = (distance(reference + size * error, reference).item() for size in (0.1, 1.0))
    assert distance(reference.clone(), reference).item() == pytest.approx(0, abs=1e-8)
    assert 0 < near < far


def test_the_estimate_learns_and_the_reference_does_not() -> None:
    distance = DecodedMel(LinearAutoencoder(), scaling(), device=CPU)
    estimate, reference = latents(seed=2).requires_grad_(), latents(seed=3).requires_grad_()
    loss = distance(estimate, reference)
    assert loss.shape == ()
    loss.backward()
    assert reference.grad is None
    assert estimate.grad is not None
    assert (estimate.grad.abs().sum(dim=1) > 0).all(), "every frame of every item"
    with torch.no_grad():
        assert distance(estimate - 0.1 * estimate.grad / estimate.grad.norm(), reference) < loss


@pytest.mark.parametrize("streams", [1, 2])
def test_the_decoder_gets_raw_latents_one_stream_at_a_time(streams: int) -> None:
    autoencoder, targets = LinearAutoencoder(), scaling(streams)
    estimate, reference = latents(seed=2, streams=streams), latents(seed=3, streams=streams)
    distance = DecodedMel(autoencoder, targets, device=CPU)
    autoencoder.decoded.clear()
    distance(estimate, reference)
    for decoded, normalised in zip(autoencoder.decoded, (reference, estimate), strict=True):
        raw = normalised * targets.std + targets.mean
        pieces = [item[first : first + CHANNELS] for item in raw for first in range(0, streams * CHANNELS, CHANNELS)]
        torch.testing.assert_close(decoded, torch.stack(pieces))


def test_it_is_the_mel_loss_of_the_two_sounds_relative_to_the_reference_s() -> None:
    autoencoder, targets = LinearAutoencoder(), scaling()
    sounds = [autoencoder.decode(targets.undo(latents(seed=seed)))[:, 0] for seed in (2, 3)]
    distance = DecodedMel(autoencoder, targets, device=CPU)
    found = distance(latents(seed=2), latents(seed=3))
    torch.testing.assert_close(found, mel_loss(*sounds, filterbanks=mel_filterbanks(44_100)))
    assert found.item() != pytest.approx(distance(latents(seed=3), latents(seed=2)).item(), rel=1e-3)


def test_of_two_targets_the_side_counts_as_much_as_each_of_them() -> None:
    autoencoder, both = LinearAutoencoder(), scaling(2)
    estimate, reference = latents(seed=2, streams=2), latents(seed=3, streams=2)
    sounds = []
    for latent in (estimate, reference):
        left, right = (autoencoder.decode(raw)[:, 0] for raw in both.undo(latent).chunk(2, dim=1))
        sounds.append((left, right, 0.5 * (left - right)))
    banks = mel_filterbanks(44_100)
    alone = [mel_loss(x, y, filterbanks=banks).item() for x, y in zip(*sounds, strict=True)]
    distance = DecodedMel(autoencoder, both, device=CPU)
    assert distance(estimate, reference).item() == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)


def test_two_targets_are_not_mistaken_for_each_other() -> None:
    reference = latents(seed=3, streams=2)
    distance = DecodedMel(LinearAutoencoder(), scaling(2), device=CPU)
    left, right = reference.chunk(2, dim=1)
    assert distance(torch.cat([right, left], dim=1), reference).item() > 0.1


def test_silence_on_both_sides_is_zero_and_teaches_nothing() -> None:
    targets = Scaling(torch.zeros(CHANNELS, 1), torch.ones(CHANNELS, 1))
    distance = DecodedMel(LinearAutoencoder(), targets, device=CPU)
    estimate = torch.zeros(1, CHANNELS, 12, requires_grad=True)
    loss = distance(estimate, torch.zeros(1, CHANNELS, 12))
    loss.backward()
    assert estimate.grad is not None
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert estimate.grad.abs().sum().item() == 0


@pytest.mark.parametrize("kind", [OpaqueAutoencoder, SilencedAutoencoder])
def test_a_decoder_without_gradient_is_refused_before_the_training(kind: type[LinearAutoencoder]) -> None:
    with pytest.raises(AutoencoderError, match=r"linear: its decoder lets no gradient through\n.*losses\.mel to 0"):
        DecodedMel(kind(), scaling(), device=CPU)


def test_the_autoencoder_that_made_the_cache_is_loaded_by_name(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path, spec=LinearAutoencoder().spec))
    distance = load_decoded_mel(f"{__name__}:load_linear", cache, scaling(), device=CPU)
    expected = DecodedMel(LinearAutoencoder(), scaling(), device=CPU)(latents(seed=2), latents(seed=3))
    assert torch.equal(distance(latents(seed=2), latents(seed=3)), expected)


def test_another_autoencoder_than_the_cache_s_is_refused_by_its_fields(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path))
    with pytest.raises(CacheError) as caught:
        load_decoded_mel("house", cache, scaling(2), device=CPU)
    message = str(caught.value)
    assert "house: the latents belong to different autoencoders" in message
    assert "autoencoder: 'tiny' here, 'house' there" in message
    assert "channels: 8 here, 64 there" in message
    assert "weights: '000" in message
    assert "hop" not in message, "it is the same in both"
    assert "try: give the autoencoder that made the latents: autoencoder: NAME" in message


def test_equal_spectra_at_a_level_above_the_floor_have_finite_gradients() -> None:
    """Where the spectra are equal, the norm of their difference is zero, whose root has no gradient of its own."""
    distance = DecodedMel(LinearAutoencoder(), scaling(1), device=CPU)
    estimate = latents(seed=2).requires_grad_()
    distance(estimate, estimate.detach().clone()).backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
