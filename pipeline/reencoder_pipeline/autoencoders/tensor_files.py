"""Reads tensors from a .safetensors file or a pickled checkpoint without running any of its code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reencoder_pipeline.errors import AutoencoderError
from reencoder_pipeline.stores.foreign_tensors import first_of, misfits, read_pickled, read_safetensors

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(file: Path, *, inside: str) -> dict[str, Tensor]:
    """All tensors by name; those under the key `inside` if a checkpoint nests them there. AutoencoderError if the file
    is damaged, or holds anything that only pickled code could restore."""
    import torch

    if file.suffix == ".safetensors":
        return read_safetensors(file, error=AutoencoderError, what="weights", remedy="fetch it again", types=())[1]
    values = read_pickled(file, error=AutoencoderError, what="weights")
    nested = values.get(inside, values) if isinstance(values, dict) else None
    if not isinstance(nested, dict):
        remedy = f"give a file that holds tensors by name, or has them under {inside!r}"
        what = "the file holds no tensors by name"
        raise AutoencoderError(what, where=file, value=type(values).__name__, remedy=remedy)
    return {str(name): value for name, value in nested.items() if isinstance(value, torch.Tensor)}


def load_tensors(model: Any, tensors: dict[str, Tensor], *, file: Path, device: str) -> Any:
    """Load exactly these weights into `model`; float32, evaluation mode, frozen. AutoencoderError if they do not fit.

    A model whose sizes come from a foreign configuration starts on the meta device and gets memory once they fit.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if problems := misfits(tensors, shapes):
        remedy = "fetch the weights and their configuration again"
        raise AutoencoderError("the weights do not fit the model", where=file, value=first_of(problems), remedy=remedy)
    if any(parameter.is_meta for parameter in model.parameters()):
        model = model.to_empty(device="cpu")
    model.load_state_dict(tensors)
    return model.float().eval().requires_grad_(False).to(device)
