"""What latents and audio are, in numbers: what the libraries' own ways give, and the layout of others written anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stable_audio_layout
from reencoder_eval.systems.system import count_pass, decode, encode
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.errors import AutoencoderError
from tiny_families import instance


def refused(name: str) -> str:
    with pytest.raises(AutoencoderError) as raised:
        load_autoencoder(name)
    return str(raised.value)


# Two channels in one latent


def test_dual_mono_is_the_joint_form_of_equal_channels() -> None:
    joint, dual = (load_autoencoder(f"{instance('oobleck_joint')}#form={form}") for form in ("joint", "dual_mono"))
    audio = torch.randn(2, 1, 5 * joint.spec.hop, generator=torch.Generator().manual_seed(0))
    latents = dual.encode(audio)
    assert torch.equal(latents, joint.encode(audio))
    decoded = joint.decode(latents)
    assert (decoded[:, 0] - decoded[:, 1]).abs().max() > 1e-3  # so averaging them is not nothing
    assert torch.allclose(dual.decode(latents)[:, 0], (decoded[:, 0] + decoded[:, 1]) / 2)
    with pytest.raises(AutoencoderError, match="put the channels into the batch"):
        dual.encode(audio.repeat(1, 2, 1))


def test_evaluation_averages_what_a_joint_one_decodes() -> None:
    joint, dual = (load_autoencoder(f"{instance('oobleck_joint')}#form={form}") for form in ("joint", "dual_mono"))
    mono = 0.3 * np.random.default_rng(0).standard_normal(5 * joint.spec.hop - 3).astype(np.float32)
    heard = []
    for autoencoder in (joint, dual):
        latents = encode(autoencoder, [mono, -mono], device="cpu")
        assert latents.shape == (1, 2 * joint.spec.channels, 5)
        heard.append(decode(autoencoder, latents, length=len(mono)))
        assert count_pass(autoencoder, "decode").gflops > 0
    assert heard[0].shape == (2, len(mono))
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-6)


# What the numbers are, by the libraries' own ways


def test_stable_audio_tools_is_read_tensor_for_tensor() -> None:
    """Compared with the network written down once more, as stable-audio-tools lays it out."""
    autoencoder = load_autoencoder(instance("stable_audio_tools"))
    torch.manual_seed(0)
    model = stable_audio_layout.Autoencoder()
    audio = 0.3 * torch.randn(1, 2, 10 * autoencoder.spec.hop, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latents, decoded = model(audio)
    assert torch.allclose(autoencoder.encode(audio), latents, atol=1e-6)
    assert torch.allclose(autoencoder.decode(latents), decoded, atol=1e-5)


@pytest.mark.parametrize("prefix", ["autoencoder.", ""])
def test_stable_audio_tools_in_other_files(tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import load_file

    source = Path(instance("stable_audio_tools"))
    tensors = load_file(source / "model.safetensors")
    inside = {name.replace("pretransform.model.", prefix): value for name, value in tensors.items() if "coder" in name}
    torch.save({"state_dict": inside, "epoch": 3}, tmp_path / "model.ckpt")
    config = {**stable_audio_layout.CONFIG, "model": stable_audio_layout.CONFIG["model"]["pretransform"]["config"]}
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    first, second = load_autoencoder(str(source)), load_autoencoder(str(tmp_path))
    audio = torch.randn(1, 2, 5 * first.spec.hop, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.encode(audio) * 2.0, second.encode(audio))  # the scale is that of the whole model


def test_stable_audio_tools_with_another_architecture(tmp_path: Path) -> None:
    config = json.loads(json.dumps(stable_audio_layout.CONFIG))
    inside = config["model"]["pretransform"]["config"]
    inside["decoder"]["config"]["final_tanh"] = True
    inside["bottleneck"]["type"] = "rvq"
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    assert "decoder with final_tanh, bottleneck 'rvq'" in refused(str(tmp_path))


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    shutil.copy(Path(instance("stable_audio_tools")) / "model_config.json", tmp_path)
    torch.save({"state_dict": {}, "bomb": _Bomb()}, tmp_path / "model.ckpt")
    assert "holds more than tensors" in refused(str(tmp_path))


def test_minimax_latents_are_normalised_by_its_config() -> None:
    from diffusers import AutoencoderKLMiniMaxH3Audio

    autoencoder = load_autoencoder(instance("minimax_h3_audio"))
    model: Any = AutoencoderKLMiniMaxH3Audio.from_pretrained(instance("minimax_h3_audio")).eval()
    audio = 0.3 * torch.randn(1, 1, 5 * autoencoder.spec.hop, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = model.encode(audio).latent_dist.mode()
        decoded = model.decode(latents).sample
    mean, std = (torch.tensor(model.config[name])[:, None] for name in ("latents_mean", "latents_std"))
    assert torch.allclose(autoencoder.encode(audio), (latents - mean) / std, atol=1e-6)
    assert torch.allclose(autoencoder.decode((latents - mean) / std), decoded, atol=1e-5)


def test_dac_projections_are_what_the_quantiser_looks_up() -> None:
    from transformers import DacModel

    folder = instance("dac_latent")
    model: Any = DacModel.from_pretrained(folder).eval()
    latent, projected = load_autoencoder(folder), load_autoencoder(f"{folder}#form=projected")
    audio = 0.3 * torch.randn(1, 1, 5 * latent.spec.hop, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = model.encode(audio)
        assert torch.allclose(projected.encode(audio), encoded.projected_latents, atol=1e-6)
        quantised = model.quantizer(latent.encode(audio).clone())[0]
        assert torch.allclose(quantised, encoded.quantized_representation, atol=1e-6)
        # Codes in the place of projections decode to what the codec itself decodes to.
        codes = model.quantizer.from_codes(encoded.audio_codes)[1]
        own = model.decode(encoded.quantized_representation).audio_values
        assert torch.allclose(projected.decode(codes)[:, 0, : own.shape[-1]], own, atol=1e-5)


def test_encodec_48khz_is_the_librarys_within_a_window() -> None:
    """And the loudness travels: twice as loud, the same latents, and a last channel that is log(2) higher."""
    from transformers import EncodecModel

    folder = instance("encodec_48khz_joint")
    autoencoder = load_autoencoder(folder)
    model: Any = EncodecModel.from_pretrained(folder).eval()
    window = model.config.chunk_length
    audio = 0.3 * torch.randn(1, 2, 2 * window, generator=torch.Generator().manual_seed(0))
    latents = autoencoder.encode(audio)
    with torch.no_grad():
        scale = (audio[..., :window].mean(dim=1).square().mean().sqrt() + 1e-8).item()
        inside = model.encoder(audio[..., :window] / scale)
        decoded = model.decoder(inside) * scale
    frames = inside.shape[-1]
    assert torch.allclose(latents[:, :-1, :frames], inside, atol=1e-5)
    assert torch.allclose(autoencoder.decode(latents)[..., :window], decoded, atol=1e-5)
    louder = autoencoder.encode(2 * audio)
    assert torch.allclose(louder[:, :-1], latents[:, :-1], atol=1e-4)
    assert torch.allclose(louder[:, -1] - latents[:, -1], torch.full_like(latents[:, -1], 2.0).log(), atol=1e-4)
