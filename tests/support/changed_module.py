"""Module files as a stranger can write them: header and tensors edited, and a digest that fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from reencoder_pipeline.training.weights_file import content_digest

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def read_parts(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header without its digest, and the tensors."""
    with safetensors.safe_open(source, "pt") as file:
        header = json.loads(file.metadata()["reencoder"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    header.pop("sha256")
    return header, tensors


def write_parts(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Path:
    signed = {**header, "sha256": content_digest(header, tensors)}
    safetensors.torch.save_file(tensors, path, metadata={"reencoder": json.dumps(signed, sort_keys=True)})
    return path


def changed_module(source: Path, path: Path, change: Change) -> Path:
    """`source` after `change(header, tensors)`, at `path`."""
    header, tensors = read_parts(source)
    change(header, tensors)
    return write_parts(header, tensors, path)
