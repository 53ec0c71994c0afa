"""The house family: shapes, the lapped transform, losses with known answers, weights files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reencoder_pipeline.audio.mel import LOG_FLOOR, RESOLUTIONS, mel_filterbanks
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.autoencoders.vocos.autoencoder import HOUSE_WEIGHTS, VocosAutoencoder
from reencoder_pipeline.autoencoders.vocos.model import (
    Vocos,
    _istft,
    _stft,
    mixtures,
)
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.autoencoders.vocos.straight_paths import (
    EnvelopeAnalysis,
    EnvelopeSynthesis,
    LappedAnalysis,
    LappedSynthesis,
    lapped_basis,
)
from reencoder_pipeline.autoencoders.vocos.training.losses import kl_divergence, reconstruction_losses
from reencoder_pipeline.autoencoders.vocos.weights import save_vocos
from reencoder_pipeline.errors import AutoencoderError

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


def test_the_lapped_transform_is_orthonormal_and_whole_it_loses_nothing() -> None:
    basis = lapped_basis(64, 64)
    torch.testing.assert_close(basis @ basis.T, torch.eye(64), atol=1e-5, rtol=0)
    config = VocosConfig(stft_hop=16, stride=4, latent_channels=64, lapped=64)
    audio = torch.randn(2, 1, 64 * 20, generator=torch.Generator().manual_seed(0))
    restored = LappedSynthesis(config)(LappedAnalysis(config)(audio))
    inside = slice(32, -32)  # the outer half hops have no neighbour to cancel their aliasing
    torch.testing.assert_close(restored[..., inside], audio[..., inside], atol=1e-4, rtol=0)


def test_the_lapped_path_gives_the_low_waveform_before_any_training() -> None:
    torch.manual_seed(0)
    model = Vocos(VocosConfig(fine=(16, 32, 1), coarse=(16, 32, 1), lapped=32))
    audio = torch.sin(2 * torch.pi * 220 / 44_100 * torch.arange(40 * 1024))[None, None]
    with torch.no_grad():
        mean = LappedAnalysis(model.config)(audio)
        restored = LappedSynthesis(model.config)(mean)
    inside = slice(2048, -2048)
    error = (restored - audio)[..., inside].square().mean() / audio[..., inside].square().mean()
    assert 10 * error.log10() < -30
    assert mean.shape == (1, 64, 40)
    assert float(mean[:, 32:].abs().max()) == 0.0


def test_the_envelope_path_gives_a_smooth_spectrum_back_before_any_training() -> None:
    config = VocosConfig(lapped=40, envelope=24)
    first, bins = config.lapped_bins, config.n_fft // 2 + 1
    place = torch.linspace(0, 1, bins - first)
    levels = torch.zeros(1, bins, 4 * 5)
    levels[:, first:] = (-3 - 4 * place + torch.cos(9 * place))[:, None]
    with torch.no_grad():
        latents = EnvelopeAnalysis(config)(levels)
        restored = EnvelopeSynthesis(config)(latents)
    assert latents.shape == (1, 64, 5)
    assert float(latents[:, : config.lapped].abs().max()) == 0.0
    assert restored.shape == levels.shape
    assert float((restored - levels)[:, first:].abs().mean()) < 0.02  # nepers; a cosine series bends at the ends


def test_the_straight_paths_alone_reconstruct_before_any_training() -> None:
    """A random network with both paths is near STFT-D 1 on noise with a slope; without them it is far from it."""
    from reencoder_pipeline.autoencoders.vocos.training.validation import STFT_D

    audio = torch.randn(1, 1, 40 * 1024, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    audio = 0.1 * audio / audio.abs().max()
    distances = {}
    for name, shape in (("paths", {"lapped": 40, "envelope": 24}), ("neither", {})):
        torch.manual_seed(0)
        model = Vocos(VocosConfig(fine=(16, 32, 1), coarse=(16, 32, 1), **shape))
        with torch.no_grad():
            estimate = model.decoder(model.encoder(audio)[0])
        losses = reconstruction_losses(
            estimate[:, 0], audio[:, 0], resolutions=STFT_D, filterbanks=mel_filterbanks(44_100)
        )
        distances[name] = float(losses["spectral"])
    assert distances["paths"] < 1.3
    assert distances["neither"] > 3 * distances["paths"]


def test_mixtures_are_shares_of_the_first_and_the_second_items() -> None:
    items = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None, None].expand(-1, 2, 3)
    mixed = mixtures(items, torch.tensor([0.25, 1.0]))
    assert mixed.shape == (2, 2, 3)
    assert mixed[:, 0, 0].tolist() == [0.25 * 1 + 0.75 * 3, 2.0]


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
    assert float(kl_divergence(zeros, zeros, free_nats=0.0)) == 0.0
    assert float(kl_divergence(zeros + 2.0, zeros, free_nats=0.0)) == pytest.approx(4 * 2.0)


def test_free_nats_are_not_penalised() -> None:
    mean = torch.tensor([0.5, 3.0])[None, :, None].requires_grad_()
    kl_divergence(mean, torch.zeros(1, 2, 1), free_nats=1.0).backward()
    assert mean.grad is not None
    assert mean.grad.flatten().tolist() == [0.0, 3.0]


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
    with pytest.raises(AutoencoderError, match="did you mean house"):
        load_autoencoder("hause")
    with pytest.raises(AutoencoderError, match="cannot be imported"):
        load_autoencoder("no_such_package:load")


def test_an_autoencoder_of_ones_own_is_loaded_by_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _saved(tmp_path)
    (tmp_path / "my_codec.py").write_text(
        "from pathlib import Path\n"
        "from reencoder_pipeline.autoencoders.vocos.autoencoder import VocosAutoencoder\n"
        "def load(device):\n"
        "    return VocosAutoencoder.load(Path(__file__).with_name('tiny.safetensors'), device=device, name='mine')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_autoencoder("my_codec:load").spec.autoencoder == "mine"


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
