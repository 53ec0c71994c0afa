"""Exports a trained module to ONNX and to torch.export, and compares each exported file with the module.

Every format takes raw latents (B, C_in, T) float32 and gives raw latents (B, C_out, T) float32, for any batch size and
number of frames; normalisation is inside. A module with a condition has a second input (B, H).
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from reencoder_pipeline.errors import CheckpointError, ConfigError
from reencoder_pipeline.stores.atomic import write_text, write_whole
from reencoder_pipeline.stores.own_folder import require_own_file
from reencoder_trainer.trained_module import TrainedModule, load_module

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-4  # in deviations of the targets; float32 of another engine differs by about 1e-6
SHAPES = ((1, 1), (1, 60), (3, 172))  # batch and frames of the random latents; the traced example has another shape
NORMALISATION = "inside: raw latents in, raw latents out"  # also marks a file as an export of ours
NAME, CONDITION, OUTPUT = "latents", "condition", "output"


@dataclass(frozen=True)
class Exported:
    """An exported file and its largest difference from the module, in deviations of the targets' channels."""

    format: str
    path: Path
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.difference <= self.tolerance  # False for a NaN

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "agrees": self.agrees}

    def text(self) -> str:
        says = f"largest difference {self.difference:.1e} of the targets' deviation"
        return (
            f"{self.path}: {says}" if self.agrees else f"{self.path}: NOT written, {says}, above {self.tolerance:.0e}"
        )


def export_module(
    path: Path,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    latents: Sequence[Tensor] = (),
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> tuple[Exported, ...]:
    """Export the module file `path` to `out`/<its name>.<format>.

    Each export is read back and compared with the module on random latents of several shapes and on `latents`, raw
    (B, C_in, T) each. An export that differs by more than `tolerance` (deviations of the targets) is not written. The
    ONNX file carries its description as metadata; that of a .pt2 is in a .json beside it.

    ConfigError for an unknown format and, unless `overwrite`, if another file already has the name of an export;
    CheckpointError if `path` is not a module or `latents` do not fit it.

    Example::

        onnx, pt2 = export_module(find_module("bwe_s"), Path("out/export"))
        assert onnx.agrees, onnx.text()
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        remedy = f"choose from: {', '.join(FORMATS)}"
        raise ConfigError("the export format is unknown", where="--format", value=unknown, remedy=remedy)
    if not overwrite:
        _require_own_files(path, out, formats)
    trained = load_module(path)
    expected = trained.module.in_channels
    for example in latents:
        if example.dim() != 3 or example.shape[1] != expected or example.numel() == 0:
            raise CheckpointError(
                f"the module takes latents (batch, {expected}, frames)",
                value=tuple(example.shape),
                remedy="give latents of the autoencoder and the streams that the module was trained with",
            )
    contract = _Contract(trained).eval()
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in formats:
        target = out / f"{path.stem}.{name}"
        content = _WRITERS[name](contract, describe(trained))
        exported = Exported(name, target, _largest_difference(trained, _READERS[name](content), latents), tolerance)
        if exported.agrees:
            if name == "pt2":
                write_text(target.with_suffix(".pt2.json"), json.dumps(describe(trained), indent=2))
            write_whole(target, content)
        found.append(exported)
    return tuple(found)


def _require_own_files(path: Path, out: Path, formats: Sequence[str]) -> None:
    remedy, holds = "choose another --out, or replace the file with --overwrite", NORMALISATION.encode()
    for name in formats:
        target = out / f"{path.stem}.{name}"
        beside = target.with_suffix(f".{name}.json")
        require_own_file(target, holds=holds, remedy=remedy, proof=beside if name == "pt2" else None)
        if name == "pt2":
            require_own_file(beside, holds=holds, remedy=remedy)


def describe(trained: TrainedModule) -> dict[str, Any]:
    """Describes an exported file for programs that have no other file of the module."""
    module = trained.module
    inputs = {NAME: ["batch", module.in_channels, "frames"]}
    if module.condition_channels:
        inputs[CONDITION] = ["batch", module.condition_channels]
    return {
        "reencoder": 1,  # the version of this description
        "task": asdict(trained.task),
        "spec": trained.spec.to_dict(),
        "inputs": inputs,
        "outputs": {OUTPUT: ["batch", module.out_channels, "frames"]},
        "type": "float32",
        "normalisation": NORMALISATION,
        "streams": "stacked along channels, in the order of the task",
        "condition": "from a standard normal, or zero for the neutral one" if module.condition_channels else None,
        "whole_piece": module.response_frames is None,
        "training": dict(trained.training),
    }


class _Contract(nn.Module):
    """The trained module as one nn.Module: weights as its parameters, statistics as constants."""

    def __init__(self, trained: TrainedModule) -> None:
        super().__init__()
        self.module, self.trained = trained.module, trained

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.trained.estimate(latents, condition)


def _example(module: nn.Module) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Example inputs for tracing, and their dynamic axes."""
    assert isinstance(module, _Contract)
    inner, dynamic = module.module, torch.export.Dim.DYNAMIC
    inputs: tuple[Tensor, ...] = (torch.zeros(2, inner.in_channels, 50),)
    shapes: dict[str, Any] = {NAME: {0: dynamic, 2: dynamic}}
    if inner.condition_channels:
        inputs += (torch.zeros(2, inner.condition_channels),)
        shapes[CONDITION] = {0: dynamic}
    return inputs, shapes


def _write_onnx(contract: nn.Module, description: Mapping[str, Any]) -> bytes:
    _needs("onnx", "onnxscript", "onnxruntime")
    inputs, shapes = _example(contract)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        contract,
        inputs,
        dynamo=True,
        input_names=list(shapes),
        output_names=[OUTPUT],
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    names = {}
    for value in (*model.graph.input, *model.graph.output):
        for axis, label in zip(value.type.tensor_type.shape.dim, ("batch", "", "frames"), strict=False):
            if axis.dim_param:
                names[axis.dim_param] = axis.dim_param = label
    for value in model.graph.value_info:
        for axis in value.type.tensor_type.shape.dim:
            axis.dim_param = names.get(axis.dim_param, axis.dim_param)
    for key, value in description.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"reencoder.{key}", json.dumps(value)
    return model.SerializeToString()


def _write_pt2(contract: nn.Module, description: Mapping[str, Any]) -> bytes:
    inputs, shapes = _example(contract)
    program = torch.export.export(contract, inputs, dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _read_onnx(content: bytes) -> Callable[..., Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, arrays)[0]))

    return run


_WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2}
_READERS = {"onnx": _read_onnx, "pt2": lambda content: torch.export.load(io.BytesIO(content)).module()}


def _largest_difference(trained: TrainedModule, run: Callable[..., Tensor], latents: Sequence[Tensor]) -> float:
    generator = torch.Generator().manual_seed(0)
    scaling, channels = trained.normalisation.inputs, trained.module.condition_channels
    random = [
        scaling.undo(torch.randn(batch, scaling.num_channels, frames, generator=generator)) for batch, frames in SHAPES
    ]
    differences = []
    for example in (*random, *(example.float() for example in latents)):
        inputs = [example.contiguous()]
        if channels:
            inputs.append(torch.randn(len(example), channels, generator=generator))
        with torch.no_grad():
            difference = run(*inputs) - trained(*inputs)
        differences.append((difference / trained.normalisation.targets.std).abs().max())
    return float(torch.stack(differences).max())  # a NaN wins


def _needs(*packages: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        raise CheckpointError(
            "the export to ONNX needs packages that are not installed",
            value=", ".join(missing),
            remedy="pip install 'reencoder[export]'",
        )
