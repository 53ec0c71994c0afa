"""What every autoencoder promises, checked of every family: `pytest tests/contracts -k autoencoder` lists them."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder
from reencoder_pipeline.encoding.encode import encode_stream
from reencoder_pipeline.encoding.segments import plan_segments
from tiny_families import FAMILIES, saved

NO_GRADIENT = {"music2latent", "codicodec"}  # their public decoders run without autograd
NOT_LOCAL = {"kvae_audio", "minimax_h3_audio", "mmaudio", "music2latent"}
NOT_LOCAL |= {name for name in FAMILIES if name.startswith("encodec")}
PER_CHANNEL, JOINT = "per_channel", "joint"
NAMES = {
    "house": ("house", PER_CHANNEL),
    "vocos": ("tiny", PER_CHANNEL),
    "oobleck_joint": ("AutoencoderOobleck#form=joint", JOINT),
    "oobleck_dual_mono": ("AutoencoderOobleck#form=dual_mono", PER_CHANNEL),
    "oobleck_mono": ("AutoencoderOobleck", PER_CHANNEL),
    "oobleck_odd_stride": ("AutoencoderOobleck#form=joint", JOINT),
    "stable_audio_tools": ("stable_audio_tools#form=joint", JOINT),
    "dac_latent": ("DacModel#form=latent", PER_CHANNEL),
    "dac_projected": ("DacModel#form=projected", PER_CHANNEL),
    "same_joint": ("AutoencoderSAME#form=joint", JOINT),
    "same_dual_mono": ("AutoencoderSAME#form=dual_mono", PER_CHANNEL),
    "kvae_audio": ("AutoencoderKLKVAEAudio", PER_CHANNEL),
    "minimax_h3_audio": ("AutoencoderKLMiniMaxH3Audio", PER_CHANNEL),
    "mmaudio": ("MMAudioVAE", PER_CHANNEL),
    "encodec_24khz": ("EncodecModel", PER_CHANNEL),
    "encodec_32khz": ("EncodecModel", PER_CHANNEL),
    "encodec_48khz_joint": ("EncodecModel#form=joint", JOINT),
    "encodec_48khz_dual_mono": ("EncodecModel#form=dual_mono", PER_CHANNEL),
    "music2latent": ("music2latent", PER_CHANNEL),
    "codicodec": ("codicodec#form=joint", JOINT),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def name(family: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def autoencoder(name: str) -> Autoencoder:
    return load_autoencoder(name)


def noise(autoencoder: Autoencoder, *, samples: int, batch: int = 1, seed: int = 0) -> Tensor:
    channels = 2 if autoencoder.spec.stereo == "joint" else 1
    return 0.3 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(seed))


def assert_close(a: Tensor, b: Tensor, *, tolerance: float = 1e-4) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * (b.std() + 1e-6)


def test_the_latents_of_audio_depend_on_it_and_the_audio_of_latents_on_them(autoencoder: Autoencoder) -> None:
    """Or everything below would hold for a random instance that maps all to one."""
    length = 5 * autoencoder.spec.hop
    first, second = (autoencoder.encode(noise(autoencoder, samples=length, seed=seed)) for seed in (0, 1))
    assert (first - second).abs().max() > 1e-3 * first.std()
    heard = [autoencoder.decode(latents) for latents in (first, second)]
    assert (heard[0] - heard[1]).abs().max() > 1e-3 * heard[0].std() > 0


def test_it_is_deterministic_and_so_is_loading_it(autoencoder: Autoencoder, name: str) -> None:
    again = load_autoencoder(name)
    assert again.spec == autoencoder.spec
    assert again.context == autoencoder.context
    audio = noise(autoencoder, samples=4 * autoencoder.spec.hop + 1)
    latents = autoencoder.encode(audio)
    assert torch.equal(latents, autoencoder.encode(audio))
    assert torch.equal(latents, again.encode(audio))
    assert torch.equal(autoencoder.decode(latents), again.decode(latents))


def test_any_length_from_one_sample_up(autoencoder: Autoencoder) -> None:
    """ceil(samples / hop) frames, and frames * hop samples back; what lies past the end is silence."""
    spec, hop = autoencoder.spec, autoencoder.spec.hop
    for samples in sorted({1, 2, hop - 1, hop, hop + 1, 3 * hop - 1, 3 * hop + hop // 2}):
        audio = noise(autoencoder, samples=samples)
        latents = autoencoder.encode(audio)
        assert latents.shape == (1, spec.channels, -(-samples // hop)), samples
        assert latents.dtype == torch.float32
        padded = torch.nn.functional.pad(audio, (0, -samples % hop))
        assert_close(latents, autoencoder.encode(padded), tolerance=1e-5)
        decoded = autoencoder.decode(latents)
        assert decoded.shape == (1, audio.shape[1], spec.num_samples(latents.shape[-1])), samples
        assert decoded.dtype == torch.float32
        assert torch.isfinite(latents).all()
        assert torch.isfinite(decoded).all()


def test_a_batch_of_two_is_two_of_one(autoencoder: Autoencoder) -> None:
    audio = noise(autoencoder, samples=4 * autoencoder.spec.hop, batch=2)
    audio[1] *= 0.05  # no gain, and no normalisation, is shared
    together = autoencoder.encode(audio)
    assert_close(together, torch.cat([autoencoder.encode(item[None]) for item in audio]))
    assert_close(autoencoder.decode(together), torch.cat([autoencoder.decode(item[None]) for item in together]))


def test_joint_stereo_takes_one_channel_as_two_equal_ones(autoencoder: Autoencoder) -> None:
    audio = noise(autoencoder, samples=4 * autoencoder.spec.hop)
    if autoencoder.spec.stereo == "joint":
        mono = audio[:, :1]
        assert torch.equal(autoencoder.encode(mono), autoencoder.encode(mono.repeat(1, 2, 1)))
        swapped = autoencoder.encode(audio.flip(1))
        assert (swapped - autoencoder.encode(audio)).abs().max() > 1e-3 * swapped.std()
    else:
        assert autoencoder.decode(autoencoder.encode(audio)).shape[1] == 1


def test_gradients_reach_the_latents_and_never_the_weights(autoencoder: Autoencoder, family: str) -> None:
    latents = autoencoder.encode(noise(autoencoder, samples=4 * autoencoder.spec.hop)).clone().requires_grad_()
    decoded = autoencoder.decode(latents)
    if family in NO_GRADIENT:
        assert not decoded.requires_grad
        return
    decoded.square().sum().backward()
    assert latents.grad is not None
    assert (latents.grad.abs().amax(dim=1) > 0).all()  # of every frame
    assert not autoencoder.encode(noise(autoencoder, samples=autoencoder.spec.hop)).requires_grad
    parameters = [
        p for part in vars(autoencoder).values() if isinstance(part, torch.nn.Module) for p in part.parameters()
    ]
    assert parameters
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in parameters)


def test_a_local_one_encodes_segments_as_it_encodes_the_whole(autoencoder: Autoencoder, family: str) -> None:
    assert autoencoder.local == (family not in NOT_LOCAL)
    spec, length = autoencoder.spec, 2 * autoencoder.context + 3
    audio = noise(autoencoder, samples=(length + 9) * spec.hop - 5)
    frames = encode_stream(autoencoder, audio[0].numpy(), segment_frames=length)
    whole = autoencoder.encode(audio)[0].T  # (C, T) -> (T, C)
    assert len(list(plan_segments(len(whole), segment_frames=length, context=autoencoder.context))) > 2
    assert frames.shape == whole.shape
    difference = (torch.from_numpy(frames) - whole).abs().max() / whole.std()
    if autoencoder.local:
        assert difference < 1e-4
    else:  # or it would be called global without need
        assert difference > 1e-6


def test_context_is_what_a_local_one_sees_and_not_much_more(autoencoder: Autoencoder, family: str) -> None:
    """By gradients, which are exactly zero where there is no influence."""
    if not isinstance(autoencoder, FrozenAutoencoder) or not autoencoder.local or family in NO_GRADIENT:
        pytest.skip("of the vocos family tests/test_encode.py asks this; the others see everything or give no gradient")
    spec, frames = autoencoder.spec, 2 * autoencoder.context + 7
    middle = frames // 2

    audio = 0.3 * torch.randn(
        1, autoencoder.audio_channels, frames * spec.hop, generator=torch.Generator().manual_seed(0)
    )
    audio.requires_grad_()
    autoencoder.to_latents(audio)[..., middle].sum().backward()
    assert audio.grad is not None
    encoder = _reach(audio.grad.reshape(autoencoder.audio_channels, frames, spec.hop).abs().amax(dim=(0, 2)), middle)

    latents = torch.randn(1, spec.channels, frames, generator=torch.Generator().manual_seed(0)).requires_grad_()
    autoencoder.decode(latents)[..., middle * spec.hop : (middle + 1) * spec.hop].abs().sum().backward()
    assert latents.grad is not None
    decoder = _reach(latents.grad[0].abs().amax(dim=0), middle)
    assert max(encoder, decoder) <= autoencoder.context <= max(encoder, decoder) + 1


def _reach(touched: Tensor, middle: int) -> int:
    places = touched.nonzero()[:, 0]
    return max(middle - int(places.min()), int(places.max()) - middle)


def test_it_is_stable_at_any_loudness(autoencoder: Autoencoder) -> None:
    """Finite and repeatable: silence, one sample of noise below 16 bits, full scale and beyond."""
    length = 4 * autoencoder.spec.hop
    for gain in (0.0, 1e-6, 1.0, 10.0):
        audio = gain / 0.3 * noise(autoencoder, samples=length)
        latents = autoencoder.encode(audio)
        decoded = autoencoder.decode(latents)
        assert torch.isfinite(latents).all(), gain
        assert torch.isfinite(decoded).all(), gain
        assert torch.equal(latents, autoencoder.encode(audio))
        assert torch.equal(decoded, autoencoder.decode(latents))


def test_its_spec_says_what_it_is(autoencoder: Autoencoder, family: str, name: str) -> None:
    """By its class and form and its contents, never by the place where it lies."""
    spec = autoencoder.spec
    assert (spec.autoencoder, spec.stereo) == NAMES[family]
    assert re.fullmatch("[0-9a-f]{64}", spec.weights)
    assert autoencoder.licence
