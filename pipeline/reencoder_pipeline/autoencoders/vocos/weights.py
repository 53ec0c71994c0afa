"""Saves and loads the weights of a Vocos network: one safetensors file with its sizes in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.errors import AutoencoderError, in_one_line
from reencoder_pipeline.safe_text import parse_json
from reencoder_pipeline.stores.foreign_tensors import first_of, misfits, read_safetensors
from reencoder_pipeline.training.weights_file import HEADER, write_weights

FORMAT = "reencoder-vocos-1"


def save_vocos(model: Vocos, path: Path, *, training: dict[str, Any]) -> None:
    """Write float16 weights, atomically. float16 halves the file, and its rounding is far below the training noise."""
    tensors = {name: value.detach().to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    header = {"format": FORMAT, "config": model.config.model_dump(), "training": training}
    write_weights(path, tensors, header, signed=False)


def load_vocos(path: Path) -> Vocos:
    """Load a network in float32, evaluation mode, frozen. AutoencoderError for a foreign or damaged file.

    Example::

        load_vocos(HOUSE_WEIGHTS).config.latent_channels  # 64
    """
    remedy = f"give a file written by `reencoder-autoencoder train` ({FORMAT})"
    metadata, tensors = read_safetensors(path, error=AutoencoderError, what="weights of an autoencoder", remedy=remedy)
    header = parse_json(metadata.get(HEADER, "{}"), kind=AutoencoderError, where=path, what="header of the weights")
    version = header.get("format") if isinstance(header, dict) else None
    if version != FORMAT:
        what = "the file does not hold weights of the vocos family"
        raise AutoencoderError(what, where=path, value=in_one_line(version), remedy=remedy)
    try:
        config = VocosConfig.model_validate_json(json.dumps(header.get("config")), strict=True)
        if problems := misfits_of(config, tensors):
            raise ValueError(first_of(problems))
        model = Vocos(config)
        model.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        what = "the weights do not fit their own header"
        raise AutoencoderError(what, where=path, value=in_one_line(error), remedy=remedy) from None
    return model.float().eval().requires_grad_(False)


def misfits_of(config: VocosConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """Everything in a header that contradicts its tensors, found before memory of those sizes is allocated."""
    if config.stft_hop > config.n_fft:
        return ["an STFT hop longer than its window"]
    if config.lapped + config.envelope > config.latent_channels:
        return ["more straight paths than channels of the latents"]
    if config.lapped and config.lapped * config.hop > max(2**20, sum(tensor.numel() for tensor in tensors.values())):
        return ["a lapped transform larger than the model"]
    if max(config.fine[2], config.coarse[2]) > len(tensors):
        return [f"{config.fine[2]} and {config.coarse[2]} blocks in {len(tensors)} tensors"]
    bins, latents = config.n_fft // 2 + 1, config.latent_channels
    expected: dict[str, tuple[int, ...]] = {
        "encoder.fine.embed.weight": (config.fine[0], 3 * bins, config.embed_kernel),
        "encoder.down.weight": (config.coarse[0], config.fine[0], config.stride),
        "encoder.posterior.weight": (2 * latents, config.coarse[0], 1),
    }
    for half in ("encoder", "decoder"):
        for stage, (channels, hidden, blocks) in (("fine", config.fine), ("coarse", config.coarse)):
            expected |= {f"{half}.{stage}.blocks.{n}.expand.weight": (hidden, channels) for n in range(blocks)}
    if config.envelope:
        expected["encoder.envelope.weight"] = (latents, bins, config.stride)
    return misfits({name: tensor for name, tensor in tensors.items() if name in expected}, expected)
