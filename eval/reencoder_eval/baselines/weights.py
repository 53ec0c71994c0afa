"""Weights of a baseline trained here: one safetensors file that says which baseline it is, its sizes, its training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from reencoder_pipeline.errors import CheckpointError, ReencoderError, in_one_line
from reencoder_pipeline.stores.foreign_tensors import FLOATS, first_of, misfits
from reencoder_pipeline.training.weights_file import read_weights, write_weights

BASELINE_FORMAT = 1
WRITTEN = "give the file that the baseline's training wrote"
M = TypeVar("M", bound=nn.Module)
S = TypeVar("S")


def save_baseline(
    path: Path, state: Mapping[str, Tensor], *, kind: str, sizes: Mapping[str, Any], training: Mapping[str, Any]
) -> None:
    """Write one safetensors file; equal arguments give equal bytes. `sizes` and `training` hold what JSON can.

    `kind` names the baseline; `sizes` are the arguments that build its module; `training` says where the weights come
    from: steps, seed, digest of the audio.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    header = {"format": BASELINE_FORMAT, "baseline": kind, "sizes": dict(sizes), "training": dict(training)}
    write_weights(path, tensors, header)


def read_baseline(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """State on the CPU, sizes, training; CheckpointError if it is missing, foreign, damaged or of another baseline."""
    header, state = read_weights(
        path, what="the weights of a baseline", version=BASELINE_FORMAT, written=WRITTEN, again="copy the file again",
        types=(*FLOATS, "I64"),  # a batch norm counts its batches
    )  # fmt: skip
    if "baseline" not in header:
        raise CheckpointError("the file holds other weights than a baseline's", where=path, remedy=WRITTEN)
    if header["baseline"] != kind:
        value = f"{in_one_line(header['baseline'])}, not {kind}"
        raise CheckpointError("the weights belong to another baseline", where=path, value=value, remedy=WRITTEN)
    if not isinstance(header.get("sizes"), dict) or not isinstance(header.get("training"), dict):
        raise CheckpointError("the header does not say the sizes of the model", where=path, remedy=WRITTEN)
    return state, header["sizes"], header["training"]


def sizes_of(kind: type[S], values: Mapping[str, Any], *, where: Path) -> S:
    """The dataclass `kind` of sizes that a header gives: no others than its fields, in their own types."""
    try:
        if unknown := set(values) - set(getattr(kind, "__dataclass_fields__", ())):
            raise ValueError(f"unknown sizes: {', '.join(sorted(unknown))}")
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except (ValueError, ZeroDivisionError, ReencoderError) as error:
        raise CheckpointError(
            "the header's sizes are none of this model", where=where, value=in_one_line(error), remedy=WRITTEN
        ) from None


def build_restored(build: Callable[[], M], sizes: Any, state: Mapping[str, Tensor], *, where: Path) -> M:
    """build(), a module of these `sizes` (a dataclass), with its tensors. The sizes are believed once the tensors
    fit: first a module without memory is made, and not even that if it has more parts than there are tensors."""
    values = list(asdict(sizes).values())
    numbers = [number for value in values for number in (value if isinstance(value, tuple | list) else [value])]
    parts = math.prod(len(value) for value in values if isinstance(value, tuple | list))
    elements = sum(tensor.numel() for tensor in state.values())
    if not all(1 <= number <= max(elements, 2**20) for number in numbers) or parts > len(state):
        value = f"{in_one_line(sizes)}, {len(state)} tensors of {elements:,} numbers"
        raise CheckpointError("the sizes are not those of the tensors", where=where, value=value, remedy=WRITTEN)
    try:
        with torch.device("meta"):
            empty = build()
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError, AssertionError) as error:
        value = f"{in_one_line(sizes)}: {in_one_line(error)}"
        raise CheckpointError("no model has these sizes", where=where, value=value, remedy=WRITTEN) from None
    if wrong := misfits(state, {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}):
        raise CheckpointError("the tensors do not fit the model", where=where, value=first_of(wrong), remedy=WRITTEN)
    module = build()
    module.load_state_dict(state)
    return module
