"""A system: anything that turns the audio of a clip into output audio; one row of a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from reencoder_eval.clips import ClipAudio
from reencoder_eval.flops import FlopCount, count_flops
from reencoder_pipeline.corpus import file_digest
from reencoder_pipeline.errors import CheckpointError, EvaluationError
from reencoder_pipeline.tasks import Task

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder
    from reencoder_trainer.trained_module import TrainedModule

Stage = Literal["encode", "decode"]


@dataclass(frozen=True)
class System:
    """`run` maps a clip to the estimate of the task's targets, float32 (targets, samples), as long as the clip.

    `name` is stable and identifies the row in scores.jsonl; `digest` changes with whatever could change the output.
    `stages` are the passes of the autoencoder, which are counted apart; `count` counts what the system adds to them.
    """

    name: str
    label: str
    about: str
    digest: str
    run: Callable[[ClipAudio], np.ndarray]
    stages: tuple[Stage, ...] = ()
    count: Callable[[], FlopCount] | None = None


def bwe_systems(
    task: Task,
    autoencoder: Autoencoder,
    modules: Sequence[tuple[str, Path, TrainedModule]] = (),
    *,
    device: torch.device | str = "cpu",
) -> tuple[System, ...]:
    """The rows of bandwidth extension: what the autoencoder can reach, two ways of adding nothing, and the modules.

    `autoencoder` and `modules` (label, file, module) are on `device` already.
    """
    (source,), (target,) = task.inputs, task.targets

    def through_autoencoder(stream: str) -> Callable[[ClipAudio], np.ndarray]:
        def run(audio: ClipAudio) -> np.ndarray:
            return decode(autoencoder, encode(autoencoder, [audio.streams[stream]], device=device), audio)

        return run

    spec = autoencoder.spec.to_dict()
    both: tuple[Stage, ...] = ("encode", "decode")
    return (
        System(
            "autoencoder",
            "Autoencoder, full band",
            "the reference, encoded and decoded: what the autoencoder itself loses, and the best a module can do",
            _digest(target, spec),
            through_autoencoder(target),
            both,
        ),
        System(
            "sinc",
            "Input (sinc)",
            "the low band brought back to the full rate, with nothing added; no autoencoder",
            _digest(source),
            lambda audio: audio.stack(task.inputs),
        ),
        System(
            "autoencoder_low_band",
            "Autoencoder, low band",
            "the low band, encoded and decoded without a module: where a module starts",
            _digest(source, spec),
            through_autoencoder(source),
            both,
        ),
        *(
            module_system(task, autoencoder, module, label=label, path=path, device=device)
            for label, path, module in modules
        ),
    )


def module_system(
    task: Task,
    autoencoder: Autoencoder,
    trained: TrainedModule,
    *,
    label: str,
    path: Path,
    device: torch.device | str = "cpu",
) -> System:
    """Ours: decode(module(encode(inputs))). CheckpointError for a module of another task or another autoencoder."""
    if trained.task != task:
        raise CheckpointError(
            "the module was trained for another task", where=path, value=f"{trained.task.name}, not {task.name}"
        )
    trained.spec.require_same(autoencoder.spec, where=path, remedy="evaluate it with the autoencoder it was trained on")

    def run(audio: ClipAudio) -> np.ndarray:
        latents = encode(autoencoder, [audio.streams[name] for name in task.inputs], device=device)
        return decode(autoencoder, trained(latents), audio)

    def count() -> FlopCount:
        frames = autoencoder.spec.frames_in(1.0)
        example = torch.zeros(1, len(task.inputs) * autoencoder.spec.channels, frames, device=device)
        return count_flops(
            trained.module, example, modules=[trained.module], seconds=frames / autoencoder.spec.frame_rate
        )

    digest = _digest(task.name, autoencoder.spec.to_dict(), file_digest(path))
    about = f"the low band's latents through a module of {trained.num_parameters / 1e6:.1f} M parameters, then decoded"
    return System(f"ours:{label}", f"Ours ({label})", about, digest, run, ("encode", "decode"), count)


@torch.inference_mode()
def encode(autoencoder: Autoencoder, signals: Sequence[np.ndarray], *, device: torch.device | str) -> Tensor:
    """Signals of (samples,) each -> latents stacked along channels, (1, signals * C, T)."""
    audio = torch.from_numpy(np.stack(signals)).to(device)[:, None]  # (B, 1, L)
    return autoencoder.encode(audio).flatten(0, 1)[None]  # (B, C, T) -> (1, B * C, T)


@torch.inference_mode()
def decode(autoencoder: Autoencoder, latents: Tensor, audio: ClipAudio) -> np.ndarray:
    """(1, targets * C, T) -> (targets, samples), without the margins (the last frame may reach past the end)."""
    length = len(next(iter(audio.streams.values())))
    decoded = autoencoder.decode(latents.unflatten(1, (-1, autoencoder.spec.channels))[0])  # (targets, 1 or 2, T * hop)
    if decoded.shape[-1] < length:
        raise EvaluationError(
            "decoded audio is shorter than the clip", value=f"{decoded.shape[-1]} of {length} samples"
        )
    mono = decoded.mean(dim=1).float().cpu().numpy()  # joint stereo decodes to two channels
    return audio.without_margins(mono)


def count_pass(autoencoder: Autoencoder, stage: Stage) -> FlopCount:
    """GFLOPs of encoding or decoding a second of one channel; the parameters are those of the whole autoencoder."""
    spec = autoencoder.spec
    frames = spec.frames_in(1.0)
    parts = [autoencoder] if isinstance(autoencoder, nn.Module) else vars(autoencoder).values()
    modules = [part for part in parts if isinstance(part, nn.Module)]
    device = next((parameter.device for module in modules for parameter in module.parameters()), None)
    shape = (1, 1, spec.num_samples(frames)) if stage == "encode" else (1, spec.channels, frames)
    function = autoencoder.encode if stage == "encode" else autoencoder.decode
    return count_flops(function, torch.zeros(shape, device=device), modules=modules, seconds=frames / spec.frame_rate)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
