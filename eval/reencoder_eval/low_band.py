"""Decides how an evaluation makes the low band of its clips: as in the training of its modules."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import Task
from reencoder_trainer.trained_module import LowBand, TrainedModule


def low_band_of(
    task: Task, modules: Sequence[tuple[Path, TrainedModule]], *, resampler: str | None, spec: LatentSpec
) -> tuple[int, str]:
    """Rate (Hz) and resampler of the low band, which are the same for all clips of a table.

    `resampler` replaces the modules'; differences from a module's training are reported on stderr. EvaluationError if
    the modules were trained on different low bands, or on a low band that leaves nothing to extend.
    """
    if "low_band" not in task.inputs or not modules:
        rate, usual = LowBand().assumed()
        return rate, resampler or usual
    asked = {path: module.low_band.assumed() for path, module in modules}
    if resampler is not None:
        asked = {path: (rate, resampler) for path, (rate, _) in asked.items()}
    if len(set(asked.values())) > 1:
        raise EvaluationError(
            "the modules were trained on different low bands, but a table has one input",
            where="modules",
            value="; ".join(f"{path}: {rate} Hz by {name}" for path, (rate, name) in asked.items()),
            remedy="evaluate them one by one, each into a folder of its own",
        )
    rate, chosen = next(iter(asked.values()))
    if rate >= spec.sample_rate:
        raise EvaluationError(
            "the module was trained on a low band that leaves nothing to extend",
            where=next(iter(asked)),
            value=f"{rate} Hz; the autoencoder's rate is {spec.sample_rate} Hz",
            remedy="check the low_band_rate of the module's training cache",
        )
    for path, module in modules:
        if not module.low_band.known:
            print(f"{path} does not record how its inputs were made: assuming {rate} Hz by {chosen}", file=sys.stderr)
        elif module.low_band.resampler != chosen:
            print(f"{path} was trained on a low band by {module.low_band.resampler}, not {chosen}", file=sys.stderr)
    return rate, chosen


def title_of(task: str, *, low_rate: int, sample_rate: int) -> str:
    if task == "m2s":
        return "Mono to stereo"
    return f"Bandwidth extension, {low_rate / 1000:g} to {sample_rate / 1000:g} kHz"
