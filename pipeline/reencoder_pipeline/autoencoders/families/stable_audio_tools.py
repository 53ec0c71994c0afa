"""Loads checkpoints of stable-audio-tools into diffusers' Oobleck: the same tensors under other names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from reencoder_pipeline.autoencoders.families.oobleck import freeze_oobleck
from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder
from reencoder_pipeline.autoencoders.known_files import STABLE_AUDIO_CONFIG
from reencoder_pipeline.autoencoders.pretrained import digest_of, library_class
from reencoder_pipeline.autoencoders.tensor_files import load_tensors, read_tensors
from reencoder_pipeline.errors import AutoencoderError

if TYPE_CHECKING:
    from torch import Tensor


WEIGHTS = ("model.safetensors", "model.ckpt")
PREFIXES = ("pretransform.model.", "autoencoder.", "")  # in a whole model; in a training checkpoint; alone
DEFAULTS = {  # stable-audio-tools' own values for keys that model_config.json leaves out
    **{"channels": 128, "c_mults": [1, 2, 4, 8], "strides": [2, 4, 8, 8], "latent_dim": 32},
    **{"use_snake": False, "antialias_activation": False, "use_nearest_upsample": False, "final_tanh": True},
}
# A residual unit is (snake, conv, snake, conv); an encoder block (unit, unit, unit, snake, conv down); a decoder block
# (snake, conv up, unit, unit, unit).
UNIT = ("snake1", "conv1", "snake2", "conv2")
BLOCKS = {
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
}


def load_stable_audio_tools(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    """Load a folder with model_config.json and model.safetensors, or model.ckpt without running its pickled code."""
    settings, scale = _autoencoder_settings(source)
    encoder, decoder = _halves(settings, source)
    file = next((source.path / name for name in WEIGHTS if (source.path / name).is_file()), source.path / WEIGHTS[0])
    digest = digest_of([file, source.path / STABLE_AUDIO_CONFIG])
    oobleck = library_class("diffusers", "AutoencoderOobleck", since="0.30")
    with torch.device("meta"):  # the sizes come from a foreign file
        model = oobleck(
            encoder_hidden_size=encoder["channels"],
            downsampling_ratios=list(encoder["strides"]),
            channel_multiples=list(encoder["c_mults"]),
            decoder_channels=decoder["channels"],
            decoder_input_channels=decoder["latent_dim"],
            audio_channels=settings.get("io_channels", encoder.get("in_channels", 2)),
            sampling_rate=source.config["sample_rate"],
        )
    tensors = rename_tensors(read_tensors(file, inside="state_dict"), num_blocks=len(encoder["strides"]))
    model = load_tensors(model, tensors, file=file, device=device)
    return freeze_oobleck(model, source, form=form, digest=digest, scale=scale)


def rename_tensors(tensors: dict[str, Tensor], *, num_blocks: int) -> dict[str, Tensor]:
    """Rename stable-audio-tools' tensors to those of Oobleck; snakes become (1, C, 1), other tensors are dropped."""
    prefix = next(p for p in PREFIXES if p == "" or any(name.startswith(f"{p}encoder.layers.") for name in tensors))
    renamed = {}
    for name, value in tensors.items():
        match = re.fullmatch(re.escape(prefix) + r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
        if match is None:
            continue
        half, position, rest = match[1], int(match[2]), match[3]
        if position == 0:
            place = f"{half}.conv1.{rest}"
        elif position > num_blocks:
            place = f"{half}.{('snake1', 'conv2')[position - num_blocks - 1]}.{rest}"
        else:
            place = f"{half}.block.{position - 1}.{_within_block(half, rest)}"
        renamed[place] = value.reshape(1, -1, 1) if re.search(r"snake\d\.(alpha|beta)$", place) else value
    return renamed


def _within_block(half: str, rest: str) -> str:
    """layers.0.layers.1.bias -> res_unit1.conv1.bias (in an encoder)."""
    _, position, rest = rest.split(".", 2)
    part = BLOCKS[half][int(position)]
    if not part.startswith("res_unit"):
        return f"{part}.{rest}"
    _, position, rest = rest.split(".", 2)
    return f"{part}.{UNIT[int(position)]}.{rest}"


def _autoencoder_settings(source: Source) -> tuple[dict[str, Any], float]:
    """The part of model_config.json that describes the autoencoder, and the scale of its latents (1.0 if alone)."""
    model = source.config.get("model", {})
    inside = model.get("pretransform") or {}
    if "encoder" in model:
        return model, 1.0
    if "encoder" in inside.get("config", {}):
        return inside["config"], float(inside.get("scale", 1.0))
    raise AutoencoderError(
        "the configuration describes no autoencoder",
        where=source.path / STABLE_AUDIO_CONFIG,
        value=f"model_type {source.config.get('model_type')!r}",
        remedy="give an autoencoder, or a model whose `pretransform` is one",
    )


def _halves(settings: dict[str, Any], source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of encoder and decoder. AutoencoderError lists everything that diffusers' Oobleck cannot represent."""
    halves, hindrances = [], []
    for half in ("encoder", "decoder"):
        kind, given = settings.get(half, {}).get("type"), settings.get(half, {}).get("config", {})
        values = {**DEFAULTS, **given}
        halves.append(values)
        found = {
            f"{half} of type {kind!r}": kind != "oobleck",
            f"{half} without use_snake": not values["use_snake"],
            f"{half} with antialias_activation": values["antialias_activation"],
            f"{half} with use_nearest_upsample": values["use_nearest_upsample"],
            f"{half} with final_tanh": half == "decoder" and values["final_tanh"],
            f"{half} whose latent_dim is not its channels": half == "encoder"
            and values["latent_dim"] != values["channels"],
        }
        hindrances += [what for what, hinders in found.items() if hinders]
    bottleneck = (settings.get("bottleneck") or {}).get("type")
    hindrances += [f"bottleneck {bottleneck!r}"] if bottleneck != "vae" else []
    hindrances += [] if "sample_rate" in source.config else ["no sample_rate"]
    hindrances += ["a pretransform inside the autoencoder"] if settings.get("pretransform") else []
    if hindrances:
        raise AutoencoderError(
            "the checkpoint cannot be read as an Oobleck autoencoder",
            where=source.path / STABLE_AUDIO_CONFIG,
            value=", ".join(hindrances),
            remedy="use a checkpoint in diffusers' format, or a function of your own (package.module:function)",
        )
    return halves[0], halves[1]
