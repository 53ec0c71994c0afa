"""A system: anything that turns the audio of a clip into output audio; one row of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from reencoder_eval.clips.read import ClipAudio
from reencoder_eval.metrics.flops import FlopCount, count_flops
from reencoder_pipeline.errors import EvaluationError, ReencoderError
from reencoder_pipeline.stores.atomic import FULL_DISK

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


NOT_FINITE = "the audio holds values that are not finite numbers"
Pass = Literal["encode", "decode"]
BOTH: tuple[Pass, ...] = ("encode", "decode")


@dataclass(frozen=True)
class System:
    """`run` maps a clip to the estimate of the task's targets, float32 (targets, samples), as long as the clip.

    `name` is stable and identifies the row in scores.jsonl; `digest` changes with whatever could change the output.
    `run` is None for a model without trained weights: it has a cost and no scores. `stages` are the passes of the
    autoencoder, which are counted apart; `count` counts what the system adds to them. `scored` is "balance" where only
    the balance of left and right is wanted, for figure 3.
    """

    name: str
    label: str
    about: str
    digest: str
    run: Callable[[ClipAudio], np.ndarray] | None
    stages: tuple[Pass, ...] = ()
    count: Callable[[], FlopCount] | None = None
    scored: Literal["all", "balance"] = "all"


def estimate_of(system: System, audio: ClipAudio) -> np.ndarray:
    """The estimate of a system for a clip. Its errors become EvaluationErrors: a system that fails is a failure
    of its row, and the evaluation goes on."""
    assert system.run is not None, "a row without weights is never run"
    try:
        estimate = system.run(audio)
    except ReencoderError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        raise EvaluationError(
            "the system failed",
            where=system.label,
            value=f"{type(error).__name__}: {error}",
            remedy="correct it, or leave it out",
        ) from error
    if not np.isfinite(estimate).all():
        remedy = "check the system's weights"
        raise EvaluationError(NOT_FINITE, where=system.label, remedy=remedy)
    return estimate


def through_autoencoder(
    autoencoder: Autoencoder, signals: Sequence[np.ndarray], *, device: torch.device | str
) -> np.ndarray:
    """Signals of (samples,) each, encoded and decoded one by one -> (signals, samples)."""
    return decode(autoencoder, encode(autoencoder, signals, device=device), length=len(signals[0]))


@torch.inference_mode()
def encode(autoencoder: Autoencoder, signals: Sequence[np.ndarray], *, device: torch.device | str) -> Tensor:
    """Signals of (samples,) each -> latents stacked along channels, (1, signals * C, T)."""
    audio = torch.from_numpy(np.stack(signals)).to(device)[:, None]  # (B, 1, L)
    return autoencoder.encode(audio).flatten(0, 1)[None]  # (B, C, T) -> (1, B * C, T)


@torch.inference_mode()
def decode(autoencoder: Autoencoder, latents: Tensor, *, length: int) -> np.ndarray:
    """(1, signals * C, T) -> (signals, length): the last frame may reach past the end."""
    decoded = autoencoder.decode(latents.unflatten(1, (-1, autoencoder.spec.channels))[0])  # (targets, 1 or 2, T * hop)
    if decoded.shape[-1] < length:
        what, value = "the decoded audio is shorter than the clip", f"{decoded.shape[-1]} of {length} samples"
        raise EvaluationError(what, value=value, remedy="check the autoencoder: it must decode hop samples a frame")
    return decoded.mean(dim=1)[:, :length].float().cpu().numpy()  # joint stereo decodes to two channels


def count_pass(autoencoder: Autoencoder, stage: Pass) -> FlopCount:
    """GFLOPs of encoding or decoding a second of one channel; the parameters are those of the whole autoencoder."""
    spec = autoencoder.spec
    frames = spec.frames_in(1.0)
    parts = [autoencoder] if isinstance(autoencoder, nn.Module) else vars(autoencoder).values()
    modules = [part for part in parts if isinstance(part, nn.Module)]
    device = next((parameter.device for module in modules for parameter in module.parameters()), None)
    shape = (1, 1, spec.num_samples(frames)) if stage == "encode" else (1, spec.channels, frames)
    function = autoencoder.encode if stage == "encode" else autoencoder.decode
    return count_flops(function, torch.zeros(shape, device=device), modules=modules, seconds=frames / spec.frame_rate)
