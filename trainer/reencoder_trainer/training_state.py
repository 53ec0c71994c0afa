"""The training state: all that `--resume` goes on from, whole or absent.

It is written beside its place, synced and renamed, and before the released module, which is derived from it: a kill
between the two loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.training.state_file import read_state, write_state

KIND = "module"  # as `RunFolder.kind` has it


@dataclass(frozen=True)
class TrainingState:
    """All that training goes on from after `step` updates: tensors and plain values only.

    `learner` holds the state dicts of weights and optimisers by name. `pending` are metrics not yet in the journal,
    `valid` the last validation, `spec` and `cache` (its digest) say which latents it learns from.
    """

    step: int
    learner: dict[str, dict[str, Any]]
    pending: list[dict[str, float]]
    valid: dict[str, float]
    spec: dict[str, Any]
    cache: str


def save_state(state: TrainingState, path: Path, *, settings: Mapping[str, Any]) -> None:
    """`settings` are those of the run, which a resumed one must have too."""
    values = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}
    write_state(path, values, kind=KIND, settings=settings)


def load_state(path: Path) -> TrainingState:
    """Tensors on the CPU. CheckpointError if the file is foreign or damaged; the caller checks that there is one."""
    values = read_state(path, kind=KIND)
    try:
        state = TrainingState(**{name: values[name] for name in TrainingState.__dataclass_fields__})
        intact = "settings" in values or values["sha256"] == state_digest(state)  # the latter of earlier versions
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise CheckpointError(
            "the training state is damaged or not one of this program",
            where=path,
            remedy="restore it from a copy, or remove the run folder and start again",
        )
    return state


def content_digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Neither safetensors nor torch.load notices a flipped bit; this covers every value that is used."""
    sha256 = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def require_version(found: object, known: int, path: Path) -> None:
    if found != known:
        raise CheckpointError(
            "written in a format of another version",
            where=path,
            value=f"format {found}; this program reads format {known}",
            remedy="use the version of this program that wrote it, or train again",
        )


def state_digest(state: TrainingState) -> str:
    """sha256 of every value that a state holds and of its place in there."""
    leaves = dict(_leaves(state.learner))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    description = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__ if name != "learner"}
    return content_digest(
        description | {"learner": {name: leaf for name, leaf in leaves.items() if name not in tensors}}, tensors
    )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings and sequences, with the way to it."""
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}/{key}")
