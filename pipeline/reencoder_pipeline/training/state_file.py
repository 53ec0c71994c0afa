"""The training state of all trainings here: one file with a checksum, from which nothing but plain values is read.

It is what torch.save writes, a zip archive whose comment is the sha256 of the bytes before it. A state holds the
settings of its run: without them a run could go on with others, and its weights would claim what they are not.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reencoder_pipeline.config import MOST_STEPS
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.stores.atomic import write_checkpoint
from reencoder_pipeline.stores.foreign_tensors import read_pickled

STATE_FORMAT = 3
COMMENT = b"reencoder-state sha256 "
DIGITS = 64
HOLDS_ITSELF = 0


class _Plain(BaseModel):
    """The plain values that states hold beside tensors."""

    model_config = ConfigDict(strict=True, extra="ignore")

    step: Annotated[int, Field(ge=0, le=MOST_STEPS)]
    settings: dict[str, Any]
    pending: list[dict[str, float]] = []
    valid: dict[str, float] = {}
    best: float = 0.0
    spec: dict[str, Any] = {}
    cache: str = ""
    learner: dict[str, dict[str, Any]] = {}


def write_state(path: Path, values: Mapping[str, Any], *, kind: str, settings: Mapping[str, Any]) -> None:
    """Write tensors and plain values. `kind` says of which training; `settings` are those of the run."""
    buffer = io.BytesIO()
    torch.save({"reencoder_state": STATE_FORMAT, "kind": kind, "settings": dict(settings), **values}, buffer)
    assert buffer.getbuffer()[-2:] == b"\0\0", "the length of the archive's comment, which torch.save leaves empty"
    buffer.seek(-2, io.SEEK_END)
    buffer.write((len(COMMENT) + DIGITS).to_bytes(2, "little") + COMMENT)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(digest.encode())
    write_checkpoint(path, buffer.getbuffer())


def read_state(path: Path, *, kind: str) -> dict[str, Any]:
    """The values, on the CPU; "settings" are those of the run.

    CheckpointError if the file is foreign, damaged, or the state of another kind of training. What is read takes no
    more memory than the file, and nothing in it is run.
    """
    what = "the training state is damaged or not one of this program"
    remedy = "restore it from a copy, or remove the run folder and start again"
    damaged = CheckpointError(what, where=path, remedy=remedy)
    if not is_state(path) or not _is_intact(path):
        raise damaged
    try:
        values = read_pickled(path, error=CheckpointError, what="a training state")
    except CheckpointError as failure:
        raise CheckpointError(what, where=path, value=f"{failure.what}: {failure.value}", remedy=remedy) from None
    try:
        # Each value takes a byte or more, unless containers stand in each other again and again.
        if not isinstance(values, dict) or _count(values, {}) > path.stat().st_size:
            raise damaged
    except RecursionError:
        raise damaged from None
    version = values.get("reencoder_state")
    if version != STATE_FORMAT:
        raise CheckpointError(
            "the training state is in a format of another version",
            where=path,
            value=f"format {version!r}"[:100] + f"; this program reads format {STATE_FORMAT}",
            remedy="use the version of this program that wrote it, or train again",
        )
    if values.get("kind") != kind:
        raise CheckpointError(
            "the training state is of another kind of training",
            where=path,
            value=f"{values.get('kind')!r}, not {kind!r}"[:200],
            remedy="give another out",
        )
    try:
        _Plain.model_validate(values)
    except (ValidationError, RecursionError):
        raise damaged from None
    return values


def is_state(path: Path) -> bool:
    """Whether a file looks like a state that `write_state` wrote, of whatever training; not whether it is sound."""
    if not path.is_file():  # a pipe may have no beginning
        return False
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(-len(COMMENT) - DIGITS, io.SEEK_END)
            return start == b"PK\3\4" and file.read(len(COMMENT)) == COMMENT
    except OSError:
        return False


def _is_intact(path: Path) -> bool:
    content = path.read_bytes()
    return content[-DIGITS:] == hashlib.sha256(memoryview(content)[:-DIGITS]).hexdigest().encode()


def _count(value: Any, known: dict[int, int]) -> int:
    """The values in nested containers; one that stands in several places counts in each. RecursionError where one holds
    itself, or they are nested without end."""
    if not isinstance(value, dict | list | tuple):
        return 1
    if id(value) not in known:
        known[id(value)] = HOLDS_ITSELF
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    elif known[id(value)] == HOLDS_ITSELF:
        raise RecursionError
    return known[id(value)]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict`, which takes moments of any shape and settings of any kind: here the settings stay the
    optimiser's own, and moments that do not fit their parameters are a ValueError."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if not isinstance(moment, torch.Tensor) or moment.shape not in (parameter.shape, torch.Size()):
                raise ValueError(f"{name} does not fit its parameter")
