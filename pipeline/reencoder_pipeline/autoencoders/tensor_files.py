"""Tensors of a .safetensors file or of a pickled checkpoint, of which nothing but tensors is ever loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reencoder_pipeline.errors import AutoencoderError
from reencoder_pipeline.stores.foreign_tensors import first_of, misfits, read_pickled, read_safetensors

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(file: Path, *, inside: str) -> dict[str, Tensor]:
    """All tensors by name; those under the key `inside` where a checkpoint nests them. AutoencoderError when the file
    is damaged, or holds anything that would need its pickled code to be run."""
    import torch

    if file.suffix == ".safetensors":
        again = "fetch it again"
        _, tensors = read_safetensors(file, error=AutoencoderError, what="weights", remedy=again, types=())
        return tensors
    values = read_pickled(file, error=AutoencoderError, what="weights")
    nested = values.get(inside, values) if isinstance(values, dict) else None
    if not isinstance(nested, dict):
        remedy = f"give a file that holds tensors by name, or has them under {inside!r}"
        raise AutoencoderError("holds no tensors by name", where=file, value=type(values).__name__, remedy=remedy)
    return {str(name): value for name, value in nested.items() if isinstance(value, torch.Tensor)}


def load_tensors(model: Any, tensors: dict[str, Tensor], *, file: Path, device: str) -> Any:
    """The model with these weights: all of them, and no others; float32, evaluation mode, frozen.

    A model on the meta device, of sizes that a foreign configuration gives, gets memory once the tensors fit.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if problems := misfits(tensors, shapes):
        remedy = "fetch the weights and their configuration again"
        raise AutoencoderError("the weights do not fit the model", where=file, value=first_of(problems), remedy=remedy)
    if any(parameter.is_meta for parameter in model.parameters()):
        model = model.to_empty(device="cpu")
    model.load_state_dict(tensors)
    return model.float().eval().requires_grad_(False).to(device)
