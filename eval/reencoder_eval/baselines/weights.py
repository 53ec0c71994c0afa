"""Weights of a baseline trained here: one safetensors file that says which baseline it is, its sizes, its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from reencoder_pipeline.durable import write_checkpoint
from reencoder_pipeline.errors import CheckpointError
from reencoder_trainer.checkpoint import content_digest, require_version
from reencoder_trainer.trained_module import HEADER

BASELINE_FORMAT = 1


def save_baseline(
    path: Path, state: Mapping[str, Tensor], *, kind: str, sizes: Mapping[str, Any], training: Mapping[str, Any]
) -> None:
    """Write one safetensors file; equal arguments give equal bytes. `sizes` and `training` hold what JSON can.

    `kind` names the baseline; `sizes` are the arguments that build its module; `training` says where the weights come
    from: steps, seed, digest of the audio.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    header: dict[str, Any] = {
        "format": BASELINE_FORMAT,
        "baseline": kind,
        "sizes": dict(sizes),
        "training": dict(training),
    }
    header = json.loads(json.dumps(header))  # tuples become lists now, as they will for the reader's digest
    header["sha256"] = content_digest(header, tensors)
    write_checkpoint(path, safetensors.torch.save(tensors, metadata={HEADER: json.dumps(header, sort_keys=True)}))


def read_baseline(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """State on the CPU, sizes, training; CheckpointError if it is missing, foreign, damaged or of another baseline."""
    damaged = CheckpointError("the weights of the baseline are damaged", where=path, remedy="copy the file again")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise CheckpointError(f"no such file with weights of {kind}", where=path) from None
    except (safetensors.SafetensorError, OSError):
        raise CheckpointError(
            "not a safetensors file, or a damaged one", where=path, remedy="give the file that the training wrote"
        ) from None
    try:
        header = dict(json.loads(metadata.get(HEADER, "{}")))
    except (ValueError, TypeError):
        raise damaged from None
    if "baseline" not in header:
        raise CheckpointError(
            "a safetensors file, but not the weights of a baseline of this program", where=path, value=sorted(metadata)
        )
    require_version(header.get("format"), BASELINE_FORMAT, path)
    if header.pop("sha256", None) != content_digest(header, state):
        raise damaged
    if header["baseline"] != kind:
        raise CheckpointError(
            "the weights belong to another baseline", where=path, value=f"{header['baseline']}, not {kind}"
        )
    return state, header["sizes"], header["training"]


def restore(module: nn.Module, state: Mapping[str, Tensor], *, where: Path) -> None:
    """Load `state` into `module`; CheckpointError naming the first tensors that are missing, unknown or misshapen."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = [f"{name}: missing" for name in expected if name not in found]
    wrong += [f"{name}: unknown" for name in found if name not in expected]
    wrong += [
        f"{name}: {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError("the tensors do not fit the model", where=where, value="; ".join(wrong[:3]) + more)
    module.load_state_dict(state)
