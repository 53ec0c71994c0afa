"""Tiny random instances of every family's real library class, saved to disk as their libraries save them.

FAMILIES maps the name of a test's parameter to a function (folder) -> name for `load_autoencoder`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tiny_build import save_tiny_autoencoder

RATE = 8_000  # of all tiny instances that let it be chosen: a second of context is then short
KEPT = TemporaryDirectory(prefix="tiny-families-")

OOBLECK = {
    "encoder_hidden_size": 8,
    "downsampling_ratios": [2, 4, 8],
    "channel_multiples": [1, 2, 2],
    "decoder_channels": 4,
    "decoder_input_channels": 4,
    "sampling_rate": RATE,
}


def _oobleck(folder: Path, **changes: Any) -> str:
    from diffusers import AutoencoderOobleck

    _awake(AutoencoderOobleck(**{**OOBLECK, **changes})).save_pretrained(folder)
    return str(folder)


def _stable_audio_tools(folder: Path) -> str:
    from stable_audio_layout import CONFIG, Autoencoder

    model = _awake(Autoencoder())
    tensors = {f"pretransform.model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    save_file({**tensors, "model.model.unrelated": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "model_config.json").write_text(json.dumps(CONFIG))
    return str(folder)


def _same(folder: Path) -> str:
    from diffusers import AutoencoderSAME

    model = AutoencoderSAME(
        patch_size=16,
        encoder_channels=8,
        encoder_c_mults=[2, 2],
        encoder_strides=[2, 4],
        encoder_transformer_depths=[1, 2],
        latent_dim=6,
        dim_heads=8,
        sampling_rate=RATE,
    )
    _awake(model).save_pretrained(folder)
    return str(folder)


def _kvae_audio(folder: Path) -> str:
    from diffusers import AutoencoderKLKVAEAudio

    model = AutoencoderKLKVAEAudio(
        encoder_dim=4,
        encoder_rates=[2, 3, 8],
        latent_dim=16,
        codebook_dim=4,
        decoder_dim=16,
        decoder_rates=[8, 3, 2],
        sample_rate=RATE,
        attn_num_heads=2,
    )
    _awake(model).save_pretrained(folder)
    return str(folder)


def _minimax_h3_audio(folder: Path) -> str:
    from diffusers import AutoencoderKLMiniMaxH3Audio

    model = AutoencoderKLMiniMaxH3Audio(
        encoder_dim=4,
        encoder_rates=(2, 4, 5),
        latent_dim=32,
        latent_channels=4,
        num_attention_heads=2,
        decoder_dim=16,
        decoder_rates=(5, 4, 2),
        decoder_kernel_sizes=(9, 8, 4),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
        sampling_rate=RATE,
        latents_mean=[0.5, -1.0, 0.0, 2.0],
        latents_std=[1.0, 2.0, 0.5, 1.5],
    )
    _awake(model).save_pretrained(folder)
    return str(folder)


def _mmaudio(folder: Path) -> str:
    from diffusers import MMAudioVAE, MMAudioVocoder

    vae = MMAudioVAE(
        mel_bins=8,
        latent_channels=4,
        hidden_channels=8,
        channel_multipliers=(1, 2),
        layers_per_block=1,
        sample_rate=RATE,
        n_fft=256,  # as many spectrogram hops as in the real one
        hop_length=32,
    )
    vocoder = MMAudioVocoder(
        num_mels=8,
        upsample_initial_channel=16,
        upsample_rates=(8, 4),
        upsample_kernel_sizes=(16, 8),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
    )
    _awake(vae).save_pretrained(folder / "audio_vae")
    _awake(vocoder).save_pretrained(folder / "vocoder")
    return f"{folder}#subfolder=audio_vae"


def _dac(folder: Path) -> str:
    from transformers import DacConfig, DacModel

    config = DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4, 8],
        decoder_hidden_size=16,
        n_codebooks=3,
        codebook_size=16,
        codebook_dim=2,
        sampling_rate=RATE,
    )
    model = DacModel(config)
    for module in model.modules():
        if isinstance(module, nn.Conv1d):
            module.reset_parameters()  # of the library's own start next to nothing is heard at the end
    model.save_pretrained(folder)
    return str(folder)


def _encodec(folder: Path, **changes: Any) -> str:
    from transformers import EncodecConfig, EncodecModel

    sizes = {"hidden_size": 8, "num_filters": 4, "upsampling_ratios": [8, 5, 2], "codebook_size": 16}
    model = EncodecModel(EncodecConfig(**{**sizes, "sampling_rate": RATE, "target_bandwidths": [1.5], **changes}))
    for name, parameter in model.named_parameters():
        if name.endswith("original0"):  # of weight normalisation: the random start fades on its way
            parameter.data *= 2
        if "lstm.bias_hh" in name:  # (input, forget, cell, output): trained ones remember
            parameter.data[len(parameter) // 4 : len(parameter) // 2] += 6
    model.save_pretrained(folder)
    return str(folder)


ENCODEC_48 = {
    "audio_channels": 2,
    "normalize": True,
    "chunk_length_s": 0.1,
    "overlap": 0.01,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
}


def _music2latent(folder: Path) -> str:
    bottleneck = {"bottleneck_base_channels": 16, "num_bottleneck_layers": 1, "bottleneck_channels": 4}
    network = {"base_channels": 8, "multipliers_list": [1] * 5, "layers_list": [1] * 5, "cond_channels": 8, "heads": 2}
    _import_tiny("music2latent", {**bottleneck, **network, "hop": 128, "sample_rate": RATE})
    model = importlib.import_module("music2latent.models").UNet()
    torch.save({"gen_state_dict": _awake(model).state_dict()}, folder / "music2latent.pt")
    return str(folder)


def _codicodec(folder: Path) -> str:
    transformer = {"dim": 32, "head_dim": 16, "heads": 2, "num_layers": 1, "num_layers_encoder": 1, "cond_channels": 16}
    frontend = {"frontend_layers_list": [1] * 4, "frontend_encoder_layers_list": [1] * 4}
    frontend |= {"frontend_base_channels": 8, "frontend_multipliers_list": [1, 1, 1, 4]}
    lengths = {"hop": 64, "data_length": 32, "num_latents": 32, "sample_rate": RATE}
    _import_tiny("codicodec", {**transformer, **frontend, **lengths})
    model = importlib.import_module("codicodec.models").UNet()
    torch.save({"gen_state_dict": _awake(model).state_dict()}, folder / "codicodec.pt")
    return str(folder)


def _import_tiny(package: str, sizes: dict[str, Any]) -> None:
    """These packages keep their sizes in a module that all others copy when they are imported, and importing the
    package imports them all: so its sizes are imported and changed before it."""
    if package not in sys.modules:
        found = find_spec(package)
        assert found
        sys.modules[package] = module_from_spec(found)  # without running its __init__
        importlib.import_module(f"{package}.hparams").__dict__.update(sizes)


FAMILIES: dict[str, Callable[[Path], str]] = {
    "house": lambda folder: "house",
    "vocos": lambda folder: str(save_tiny_autoencoder(folder / "tiny.safetensors")),
    "oobleck_joint": _oobleck,
    "oobleck_dual_mono": lambda folder: f"{_oobleck(folder)}#form=dual_mono",
    "oobleck_mono": lambda folder: _oobleck(folder, audio_channels=1),
    "oobleck_odd_stride": lambda folder: _oobleck(folder, downsampling_ratios=[3, 4, 5]),
    "stable_audio_tools": _stable_audio_tools,
    "dac_latent": _dac,
    "dac_projected": lambda folder: f"{_dac(folder)}#form=projected",
    "same_joint": _same,
    "same_dual_mono": lambda folder: f"{_same(folder)}#form=dual_mono",
    "kvae_audio": _kvae_audio,
    "minimax_h3_audio": _minimax_h3_audio,
    "mmaudio": _mmaudio,
    "encodec_24khz": _encodec,
    "encodec_32khz": lambda folder: _encodec(folder, use_causal_conv=False),
    "encodec_48khz_joint": lambda folder: _encodec(folder, **ENCODEC_48),
    "encodec_48khz_dual_mono": lambda folder: f"{_encodec(folder, **ENCODEC_48)}#form=dual_mono",
    "music2latent": _music2latent,
    "codicodec": _codicodec,
}
LIBRARIES = {
    **{"house": "", "vocos": "", "dac": "transformers", "encodec": "transformers"},
    **{"music2latent": "music2latent", "codicodec": "codicodec"},
}


def saved(family: str, folder: Path) -> str:
    """The name under which a tiny instance of the family can be loaded; skips where its library is not installed."""
    library = LIBRARIES.get(family.split("_", maxsplit=1)[0], "diffusers")
    if library and find_spec(library) is None:
        pytest.skip(f"{library} is not installed (an optional extra)")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return FAMILIES[family](folder)


@cache
def instance(family: str) -> str:
    """One that all tests of a process share. Not to be changed: copy it."""
    return saved(family, Path(KEPT.name) / family)


def _awake(model: Any) -> Any:
    """Random weights that pass signals on: what starts at zero or next to it would hide every mistake behind it."""
    assert isinstance(model, nn.Module)
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.abs().max() < 1e-3:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model
