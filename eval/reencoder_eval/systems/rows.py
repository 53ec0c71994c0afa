"""The systems of an evaluation's table: rows without a module, baselines, modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_eval.clips.read import ClipAudio
from reencoder_eval.systems.baseline_rows import baseline_systems
from reencoder_eval.systems.module_rows import module_systems
from reencoder_eval.systems.names import CEILING_ROW, START_ROWS
from reencoder_eval.systems.system import BOTH, System, through_autoencoder
from reencoder_pipeline.tasks import LOW_BAND_RATE, Task

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder
    from reencoder_trainer.trained_module import TrainedModule


# Label and about of the ceiling; name, label and about of the bare input and of the row that modules start from.
PLAIN_ROWS = {
    "bwe": (
        (
            "Autoencoder, full band",
            "the reference, encoded and decoded: what the autoencoder itself loses, and the best a module can do",
        ),
        ("sinc", "Input (sinc)", "the low band brought back to the full rate, with nothing added; no autoencoder"),
        (
            START_ROWS["bwe"],
            "Autoencoder, low band",
            "the low band, encoded and decoded without a module: where a module starts",
        ),
    ),
    "m2s": (
        (
            "Autoencoder, stereo",
            "left and right, encoded and decoded: what the autoencoder itself loses, and the best a module can do",
        ),
        ("mono_copy", "Input (mono copy)", "the mono signal on both sides; no autoencoder"),
        (
            START_ROWS["m2s"],
            "Autoencoder, mono copy",
            "the mono signal, encoded and decoded without a module, on both sides: where a module starts",
        ),
    ),
}


def systems_of(
    task: Task,
    autoencoder: Autoencoder,
    *,
    modules: Sequence[tuple[str, Path, TrainedModule]] = (),
    baselines: Sequence[Baseline] = (),
    low_rate: int = LOW_BAND_RATE,
    resampler: str = "soxr_vhq",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[System, ...]:
    """The rows of a task: what the autoencoder can reach, two ways of adding nothing, baselines, and the modules.

    `autoencoder` and `modules` (label, file, module) are on `device` already. Baselines come twice: on the undistorted
    input, and after the autoencoder. `seed` draws the random conditions; `low_rate` and `resampler` make a low band.
    """
    rows = list(_plain_rows(task, autoencoder, device=device))
    for baseline in baselines:
        rows += baseline_systems(task, autoencoder, baseline, low_rate=low_rate, resampler=resampler, device=device)
    for label, path, module in modules:
        rows += module_systems(task, autoencoder, module, label=label, path=path, seed=seed, device=device)
    return tuple(rows)


def _plain_rows(task: Task, autoencoder: Autoencoder, *, device: torch.device | str) -> tuple[System, ...]:
    spec, targets = autoencoder.spec.to_dict(), len(task.targets)

    def through(streams: Sequence[str]) -> Callable[[ClipAudio], np.ndarray]:
        def run(audio: ClipAudio) -> np.ndarray:
            signals = through_autoencoder(autoencoder, [audio.streams[name] for name in streams], device=device)
            return audio.without_margins(_as_many(signals, targets))

        return run

    texts = PLAIN_ROWS[task.name]
    return (
        System(CEILING_ROW, *texts[0], digest_of(task.targets, spec), through(task.targets), BOTH),
        System(
            *texts[1],
            digest_of(task.inputs, targets),
            lambda audio: _as_many(audio.stack(task.inputs), targets),
        ),
        System(*texts[2], digest_of(task.inputs, targets, spec), through(task.inputs), BOTH),
    )


def _as_many(signals: np.ndarray, targets: int) -> np.ndarray:
    """One input for all targets: (inputs, samples) -> (targets, samples)."""
    return signals if len(signals) == targets else np.repeat(signals, targets, axis=0)
