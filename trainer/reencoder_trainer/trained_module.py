"""Reads and writes a trained module: one safetensors file that holds everything needed to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from reencoder_pipeline.config import Resampler
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.stores.foreign_tensors import first_of, misfits
from reencoder_pipeline.tasks import LOW_BAND_RATE, Task
from reencoder_pipeline.training.weights_file import read_weights, write_weights
from reencoder_trainer.module.condition import ConditionEncoder, Posterior, standard_normal
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.module_header import WRITTEN, ModuleHeader, parse_header

MODULE_FORMAT = 2
UNCONDITIONED = "use a module trained with condition.channels above 0, or call this one with latents alone"

FIRST_WINDOW_SECONDS = 1.4  # the training window of modules whose header lacks it


@dataclass(frozen=True)
class LowBand:
    """How the stream `low_band` of the training latents was made: rate in Hz and resampler.

    None stands for unknown (imported latents). The defaults are those of modules whose header lacks these fields.
    """

    rate: int | None = LOW_BAND_RATE
    resampler: str | None = "soxr_vhq"

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> LowBand:
        """Read it from the index of a cache. "unknown" and values that no build writes become None."""
        rate, resampler = described.get("rate"), described.get("resampler")
        return cls(
            rate if type(rate) is int and 1_000 <= rate <= 1_000_000 else None,
            resampler if resampler in get_args(Resampler) else None,
        )

    @property
    def known(self) -> bool:
        return None not in (self.rate, self.resampler)

    def assumed(self) -> tuple[int, str]:
        """Rate and resampler, with the defaults in place of unknown values."""
        usual = LowBand()
        return self.rate or usual.rate or 0, self.resampler or usual.resampler or ""


@dataclass(frozen=True)
class TrainedModule:
    """A module with everything needed to use it: raw latents in, raw latents out.

    `encoder` is the condition encoder, None for a module without a condition. `training` records steps, seed, digest of
    the cache, losses, and the number format of matrix products. `low_band` says how the inputs were made.
    `window_frames` is the length of a training window, None if the file lacks it (see `window`).

    Example::

        trained = load_module(find_module("bwe_s"))
        latents = torch.randn(1, trained.module.in_channels, 43)  # (1, 64, 43), raw latents of low_band
        estimate = trained(latents)  # (1, 64, 43), raw latents of mono
    """

    module: LatentModule
    task: Task
    spec: LatentSpec
    normalisation: Normalisation
    training: Mapping[str, Any]
    encoder: ConditionEncoder | None = None
    low_band: LowBand = LowBand()
    window_frames: int | None = None

    @torch.no_grad()  # not inference_mode: a decoder that records gradients could not take the output
    def __call__(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Raw latents (B, C_in, T) of the task's inputs -> raw float32 (B, C_out, T); streams are stacked along C.

        `condition` is (B, H), or (1, H) for the whole batch: the mean of `posterior`, a sample of `prior`, or a vector
        between them (`interpolated`). The default is the prior's mean, zero. CheckpointError if the module takes none.
        """
        if self.encoder is not None:
            if condition is None:
                condition = latents.new_zeros(1, self.encoder.condition_channels, dtype=torch.float32)
            condition = condition.expand(len(latents), -1)
        elif condition is not None:
            value, remedy = f"a condition {tuple(condition.shape)}", "call the module with latents alone"
            raise CheckpointError("this module takes no condition", value=value, remedy=remedy)
        return self.estimate(latents, condition)

    def estimate(self, latents: Tensor, condition: Tensor | None) -> Tensor:
        """Like a call, but with gradients. A module that takes a condition needs one here, (B, H)."""
        estimate = self.module(self.normalisation.inputs.apply(latents), condition)
        return self.normalisation.targets.undo(estimate)

    @torch.inference_mode()
    def posterior(self, targets: Tensor) -> Posterior:
        """G_phi of raw target latents (B, C_out, T); its mean is the oracle's condition (section 4.2)."""
        if self.encoder is None:
            raise CheckpointError("this module has no condition encoder", remedy=UNCONDITIONED)
        return self.encoder(self.normalisation.targets.apply(targets))

    def prior(self, num: int, *, seed: int) -> Tensor:
        """(num, H) random conditions, a pure function of the seed."""
        if self.encoder is None:
            raise CheckpointError("this module takes no condition, so it has no prior", remedy=UNCONDITIONED)
        return standard_normal(num, self.encoder.condition_channels, seed=seed, step=0)

    @property
    def num_parameters(self) -> int:
        """Parameters of the module and of its condition encoder."""
        return self.module.num_parameters + (self.encoder.num_parameters if self.encoder else 0)

    @property
    def window(self) -> int:
        """Frames of a training window."""
        return self.window_frames or self.spec.frames_in(FIRST_WINDOW_SECONDS)

    def to(self, device: torch.device | str) -> TrainedModule:
        """The same on `device`; the networks themselves move, as any nn.Module does."""
        encoder = self.encoder.to(device) if self.encoder else None
        return replace(
            self, module=self.module.to(device), normalisation=self.normalisation.to(device), encoder=encoder
        )


def save_module(trained: TrainedModule, path: Path, *, weights: torch.dtype = torch.float32) -> None:
    """Write one safetensors file; equal modules give equal bytes.

    `weights` is the stored type: float16 halves the file and rounds the weights, which are always used in float32.
    Statistics of latents stay float32.
    """
    tensors = {f"module.{name}": tensor for name, tensor in trained.module.state_dict().items()}
    if trained.encoder is not None:
        tensors |= {f"condition.{name}": tensor for name, tensor in trained.encoder.state_dict().items()}
    tensors = {name: tensor.to(weights) for name, tensor in tensors.items()}
    for name, scaling in (("inputs", trained.normalisation.inputs), ("targets", trained.normalisation.targets)):
        tensors |= {f"normalisation.{name}.mean": scaling.mean, f"normalisation.{name}.std": scaling.std}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    module, encoder = trained.module, trained.encoder
    header = {
        "format": MODULE_FORMAT,
        "config": {
            "in_channels": module.in_channels,
            "out_channels": module.out_channels,
            "blocks": module.size.blocks,
            "width": module.size.width,
            "output": module.output,
            "condition_channels": module.condition_channels,
            "response_frames": module.response_frames,
        },
        "condition_blocks": len(encoder.blocks) if encoder else 0,
        "condition_levels": encoder.levels if encoder else False,
        "task": asdict(trained.task),
        "spec": trained.spec.to_dict(),
        "low_band": asdict(trained.low_band),
        "window_frames": trained.window,
        "training": dict(trained.training),
    }
    write_weights(path, tensors, header)


def load_module(path: Path) -> TrainedModule:
    """Read a file of save_module, in eval mode on the CPU; CheckpointError if it is missing, foreign or damaged.

    The sizes in the header allocate nothing: the networks are made on `meta` and filled with the tensors of the file.

    Example::

        trained = load_module(Path("out/runs/bwe/module.safetensors"))
    """
    header, tensors = _read(path)
    config, width = header.config, header.config.width
    if max(config.blocks, header.condition_blocks) > len(tensors):
        value = f"{config.blocks} and {header.condition_blocks} blocks, {len(tensors)} tensors"
        raise CheckpointError("the header asks for more than the file holds", where=path, value=value, remedy=WRITTEN)
    encoder = None
    try:
        with torch.device("meta"):
            module = LatentModule(**config.model_dump())
            if header.condition_blocks:
                encoder = ConditionEncoder(
                    config.out_channels,
                    config.condition_channels,
                    blocks=header.condition_blocks,
                    width=width,
                    levels=header.condition_levels,
                )
    except (RuntimeError, OverflowError, TypeError):  # sizes that no tensor can have
        raise CheckpointError(
            "the header asks for impossible sizes", where=path, value=f"width {width}", remedy=WRITTEN
        ) from None
    parts = {"module.": module, **({"condition.": encoder} if encoder else {})}
    expected = {
        prefix + name: tuple(tensor.shape)
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
    for name, channels in (("inputs", config.in_channels), ("targets", config.out_channels)):
        expected |= {f"normalisation.{name}.{value}": (channels, 1) for value in ("mean", "std")}
    _require_tensors(tensors, expected, path)
    for prefix, part in parts.items():
        part.load_state_dict(
            {name: tensors[prefix + name].to(torch.float32, copy=True) for name in part.state_dict()}, assign=True
        )
    inputs, targets = (
        Scaling(*(tensors[f"normalisation.{name}.{value}"].clone() for value in ("mean", "std")))
        for name in ("inputs", "targets")
    )
    return TrainedModule(
        module.eval(),
        header.task.task,
        header.spec.spec,
        Normalisation(inputs, targets),
        header.training,
        encoder.eval() if encoder else None,
        LowBand(header.low_band.rate, header.low_band.resampler),
        header.window_frames,
    )


def _require_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """CheckpointError unless these are the tensors that the header describes and all numbers are finite."""
    problems = misfits(tensors, expected)
    for name in expected if not problems else ():
        tensor, statistic = tensors[name], name.startswith("normalisation.")
        if statistic and tensor.dtype != torch.float32:
            problems.append(f"{name} is {tensor.dtype}, not torch.float32")
        elif not tensor.isfinite().all():
            problems.append(f"{name} holds numbers that are not finite")
        elif statistic and name.endswith(".std") and not (tensor > 0).all():
            problems.append(f"{name} is not above 0")
    if problems:
        value = first_of(problems)
        raise CheckpointError("the tensors do not fit the header of the file", where=path, value=value, remedy=WRITTEN)


def _read(path: Path) -> tuple[ModuleHeader, dict[str, Tensor]]:
    """Header and tensors, compared with their digest."""
    again = "copy the file again, or resume its run, which writes it again"
    values, tensors = read_weights(path, what="a latent module", version=MODULE_FORMAT, written=WRITTEN, again=again)
    return parse_header(json.dumps(values), path), tensors
