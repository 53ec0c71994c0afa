"""Writes and reads released weights: one safetensors file with a JSON header that holds a digest of everything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reencoder_pipeline.errors import CheckpointError, in_one_line
from reencoder_pipeline.stores.atomic import write_checkpoint
from reencoder_pipeline.stores.foreign_tensors import FLOATS, read_safetensors

HEADER = "reencoder"  # the one metadata key: safetensors writes several keys in no fixed order


def write_weights(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, signed: bool = True) -> None:
    """Write the file whole or not at all; equal arguments give equal bytes. `header` holds what JSON can.

    `signed`: the header gets the key "sha256", by which `read_weights` notices any change.
    """
    import safetensors.torch

    said = json.loads(json.dumps(dict(header)))  # tuples become lists now, as they will for the reader's digest
    if signed:
        said["sha256"] = content_digest(said, tensors)
    write_checkpoint(path, safetensors.torch.save(dict(tensors), metadata={HEADER: json.dumps(said, sort_keys=True)}))


def read_weights(
    path: Path, *, what: str, version: int, written: str, again: str, types: Sequence[str] = FLOATS
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header (without its digest) and tensors on the CPU of a signed file, whose digest has been checked.

    CheckpointError if the file is missing, foreign, damaged, or not of format `version`. `what` names its content;
    `written` and `again` are the remedies for a foreign and for a damaged file. The header's size is bounded.
    """
    if not path.exists():
        raise CheckpointError(f"the file with {what} does not exist", where=path, remedy=written)
    damaged = CheckpointError(f"the file with {what} is damaged", where=path, remedy=again)
    metadata, tensors = read_safetensors(path, error=CheckpointError, what=what, remedy=again, types=types)
    if HEADER not in metadata:
        value = [in_one_line(key) for key in sorted(metadata)[:8]]
        problem = f"the safetensors file is not {what} of this program"
        raise CheckpointError(problem, where=path, value=value, remedy=written)
    try:
        header = dict(json.loads(metadata[HEADER]))
    except (ValueError, TypeError, RecursionError):
        raise damaged from None
    require_version(header.get("format"), version, path)
    if header.pop("sha256", None) != content_digest(header, tensors):
        raise damaged
    return header, tensors


def content_digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 of every value that is used: neither safetensors nor torch.load notices a flipped bit."""
    sha256 = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def require_version(found: object, known: int, path: Path) -> None:
    if found != known:
        raise CheckpointError(
            "the file is in a format of another version",
            where=path,
            value=f"format {in_one_line(found)}; this program reads format {known}",
            remedy="use the version of this program that wrote it, or train again",
        )
