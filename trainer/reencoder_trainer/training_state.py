"""Reads the training state of a module: all that `--resume` goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.training.state_file import read_state

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
    """What the state file at `path` holds, as a TrainingState; CheckpointError if something lacks."""
    try:
        return TrainingState(**{name: values[name] for name in TrainingState.__dataclass_fields__})
    except KeyError:
        raise CheckpointError(
            "the training state is damaged or not one of this program",
            where=path,
            remedy="restore it from a copy, or remove the run folder and start again",
        ) from None
