"""Weights of the family on disk: one safetensors file, its shape in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.durable import write_checkpoint
from reencoder_pipeline.errors import AutoencoderError

FORMAT = "reencoder-vocos-1"
HEADER = "reencoder"  # the one metadata key: safetensors writes several keys in no fixed order


def save_vocos(model: Vocos, path: Path, *, training: dict[str, Any]) -> None:
    """float16 weights (half the file, and the rounding is far below the training noise), written beside and renamed."""
    tensors = {name: value.detach().to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    header = {"format": FORMAT, "config": asdict(model.config), "training": training}
    write_checkpoint(path, save(tensors, metadata={HEADER: json.dumps(header, sort_keys=True)}))


def load_vocos(path: Path) -> Vocos:
    """The model in float32, evaluation mode, frozen. AutoencoderError for a foreign or damaged file."""
    remedy = f"give a file written by `reencoder-autoencoder train` ({FORMAT})"
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise AutoencoderError("weights cannot be read", where=path, value=str(error), remedy=remedy) from None
    if header.get("format") != FORMAT:
        raise AutoencoderError("not weights of the vocos family", where=path, value=header.get("format"), remedy=remedy)
    try:
        values: dict[str, Any] = header["config"]
        values |= {name: tuple(values[name]) for name in ("fine", "coarse")}
        model = Vocos(VocosConfig(**values))
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AutoencoderError("weights do not fit their own header", where=path, value=str(error)[:300]) from None
    return model.eval().requires_grad_(False)
