"""Two files: a released module, which explains itself, and the training state, which only `--resume` reads.

Each is written beside its place, synced and renamed, so that it is whole or absent. The state alone holds all that
training goes on from, and is written first; the module file is derived from it, so a kill between the two loses
nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from reencoder_pipeline.durable import write_checkpoint
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import Task
from reencoder_trainer.latent_module import LatentModule
from reencoder_trainer.normalisation import Normalisation, Scaling

MODULE_FORMAT, STATE_FORMAT = 1, 1
HEADER = "reencoder"  # the one metadata key: safetensors writes several keys in no fixed order


@dataclass(frozen=True)
class TrainedModule:
    """A module with all that its use needs: raw latents in, raw latents out.

    `training` says where it comes from: steps, seed, digest of the cache, losses.
    """

    module: LatentModule
    task: Task
    spec: LatentSpec
    normalisation: Normalisation
    training: Mapping[str, Any]

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        """Raw latents (B, C_in, T) of the task's inputs -> raw float32 (B, C_out, T); streams are stacked along C."""
        return self.normalisation.targets.undo(self.module(self.normalisation.inputs.apply(latents)))

    @property
    def num_parameters(self) -> int:
        return self.module.num_parameters

    def to(self, device: torch.device | str) -> TrainedModule:
        """On `device`; the module itself moves, as modules do."""
        return TrainedModule(self.module.to(device), self.task, self.spec, self.normalisation.to(device), self.training)


def save_module(trained: TrainedModule, path: Path) -> None:
    """Write one safetensors file; equal modules give equal bytes."""
    tensors = {f"module.{name}": tensor for name, tensor in trained.module.state_dict().items()}
    for name, scaling in (("inputs", trained.normalisation.inputs), ("targets", trained.normalisation.targets)):
        tensors |= {f"normalisation.{name}.mean": scaling.mean, f"normalisation.{name}.std": scaling.std}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    module = trained.module
    header = {
        "format": MODULE_FORMAT,
        "config": {
            "in_channels": module.in_channels,
            "out_channels": module.out_channels,
            "blocks": module.size.blocks,
            "width": module.size.width,
            "residual": module.residual,
        },
        "task": asdict(trained.task),
        "spec": trained.spec.to_dict(),
        "training": dict(trained.training),
    }
    header["sha256"] = _digest(header, tensors)
    write_checkpoint(path, safetensors.torch.save(tensors, metadata={HEADER: json.dumps(header, sort_keys=True)}))


def load_module(path: Path) -> TrainedModule:
    """Read what save_module wrote, in eval mode on the CPU; CheckpointError if it is missing, foreign or damaged."""
    damaged = CheckpointError(
        "the module file is damaged", where=path, remedy="copy it again, or resume its run, which writes it anew"
    )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise CheckpointError("no such module file", where=path, remedy="train one with reencoder-train") from None
    except (safetensors.SafetensorError, OSError):
        raise damaged from None
    if HEADER not in metadata:
        raise CheckpointError(
            "a safetensors file, but not a latent module of this program", where=path, value=sorted(metadata)
        )
    try:
        header = dict(json.loads(metadata[HEADER]))
    except (ValueError, TypeError):
        raise damaged from None
    _require_version(header.get("format"), MODULE_FORMAT, path)
    if header.pop("sha256", None) != _digest(header, tensors):
        raise damaged
    module = LatentModule(**header["config"])
    prefix = "module."
    module.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    inputs, targets = (
        Scaling(tensors[f"normalisation.{name}.mean"], tensors[f"normalisation.{name}.std"])
        for name in ("inputs", "targets")
    )
    task = header["task"]
    return TrainedModule(
        module.eval(),
        Task(task["name"], inputs=tuple(task["inputs"]), targets=tuple(task["targets"])),
        LatentSpec.from_dict(header["spec"], where=path),
        Normalisation(inputs, targets),
        header["training"],
    )


@dataclass(frozen=True)
class TrainingState:
    """All that training goes on from after `step` updates: tensors and plain values only.

    `pending` are metrics not yet in the journal, `valid` the last validation, `spec` and `cache` (its digest) say which
    latents it learns from.
    """

    step: int
    module: dict[str, Tensor]
    optimizer: dict[str, Any]
    pending: list[dict[str, float]]
    valid: dict[str, float]
    spec: dict[str, Any]
    cache: str


def save_state(state: TrainingState, path: Path) -> None:
    values = {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}
    buffer = io.BytesIO()
    torch.save({"reencoder_state": STATE_FORMAT, "sha256": _state_digest(state), **values}, buffer)
    write_checkpoint(path, buffer.getbuffer())


def load_state(path: Path) -> TrainingState:
    """Tensors on the CPU. CheckpointError if the file is foreign or damaged; the caller checks that there is one."""
    damaged = CheckpointError(
        "the training state is damaged or not one of this program",
        where=path,
        remedy="restore it from a copy, or remove the run folder and start again",
    )
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        version = values["reencoder_state"]
    except Exception:  # a damaged pickle can raise anything
        raise damaged from None
    _require_version(version, STATE_FORMAT, path)
    try:
        state = TrainingState(**{name: values[name] for name in TrainingState.__dataclass_fields__})
        intact = values["sha256"] == _state_digest(state)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged from None
    if not intact:
        raise damaged
    return state


def _state_digest(state: TrainingState) -> str:
    description = {
        name: getattr(state, name) for name in TrainingState.__dataclass_fields__ if name not in ("module", "optimizer")
    }
    moments = {
        f"optimizer {index} {name}": moment
        for index, parameter in state.optimizer["state"].items()
        for name, moment in parameter.items()
    }
    return _digest(description | {"groups": state.optimizer["param_groups"]}, {**state.module, **moments})


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Neither safetensors nor torch.load notices a flipped bit; this covers every value that is used."""
    sha256 = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def _require_version(found: object, known: int, path: Path) -> None:
    if found != known:
        raise CheckpointError(
            "written in a format of another version",
            where=path,
            value=f"format {found}; this program reads format {known}",
            remedy="use the version of this program that wrote it, or a newer one",
        )
