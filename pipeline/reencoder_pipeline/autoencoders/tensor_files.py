"""Tensors of a .safetensors file or of a pickled checkpoint, of which nothing but tensors is ever loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reencoder_pipeline.errors import AutoencoderError

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(file: Path, *, inside: str) -> dict[str, Tensor]:
    """All tensors by name; those under the key `inside` where a checkpoint nests them. AutoencoderError when the file
    is damaged, or holds anything that would need its pickled code to be run."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values: dict[str, Any] = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        remedy = "save its tensors alone, as safetensors: code in a checkpoint is never run here"
        raise AutoencoderError("holds more than tensors", where=file, value=str(error)[:300], remedy=remedy) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        value = f"{type(error).__name__}: {str(error)[:300]}"
        raise AutoencoderError("the weights cannot be read", where=file, value=value, remedy="fetch it again") from None
    nested = values.get(inside, values)
    return {name: value for name, value in nested.items() if isinstance(value, torch.Tensor)}


def load_tensors(model: Any, tensors: dict[str, Tensor], *, file: Path, device: str) -> Any:
    """The model with these weights: all of them, and no others; float32, evaluation mode, frozen."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        value = str(error).replace("\n", " ")[:300]
        raise AutoencoderError("the weights do not fit the model", where=file, value=value) from None
    return model.float().eval().requires_grad_(False).to(device)
