"""Reads the training state of a module: all that `--resume` goes on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.training.state_file import read_state
from reencoder_pipeline.training.weights_file import content_digest

KIND = "module"  # as `RunFolder.kind` has it


@dataclass(frozen=True)
class TrainingState:
    """All that training goes on from after `step` updates: tensors and plain values only.

    `learner` holds the state dicts of weights and optimisers by name. `pending` are metrics not yet in a row,
    `valid` the last validation, `spec` and `cache` (its digest) say which latents it learns from.
    """

    step: int
    learner: dict[str, dict[str, Any]]
    pending: list[dict[str, float]]
    valid: dict[str, float]
    spec: dict[str, Any]
    cache: str


def load_state(path: Path) -> TrainingState:
    """Tensors on the CPU. CheckpointError if the file is foreign or damaged; the caller checks that there is one."""
    return training_state(read_state(path, kind=KIND), path)


def training_state(values: Mapping[str, Any], path: Path) -> TrainingState:
    """What the state file at `path` holds, as a TrainingState; CheckpointError if something lacks or has changed."""
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
