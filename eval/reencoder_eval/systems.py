"""A system: anything that turns the audio of a clip into output audio; one row of a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_eval.clips import ClipAudio
from reencoder_eval.flops import FlopCount, count_flops
from reencoder_eval.system_names import AFTER, CEILING_ROW, CONDITIONS, LAMBDA, MODULES, SHARES, START_ROWS
from reencoder_pipeline.audio import low_band
from reencoder_pipeline.corpus import file_digest
from reencoder_pipeline.durable import FULL_DISK
from reencoder_pipeline.errors import CheckpointError, EvaluationError, ReencoderError
from reencoder_pipeline.tasks import Task
from reencoder_trainer.condition import interpolated

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder
    from reencoder_trainer.trained_module import TrainedModule

NOT_FINITE = "the audio holds values that are not finite numbers"
Stage = Literal["encode", "decode"]
BOTH: tuple[Stage, ...] = ("encode", "decode")

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
    stages: tuple[Stage, ...] = ()
    count: Callable[[], FlopCount] | None = None
    scored: Literal["all", "balance"] = "all"


def systems_of(
    task: Task,
    autoencoder: Autoencoder,
    *,
    modules: Sequence[tuple[str, Path, TrainedModule]] = (),
    baselines: Sequence[Baseline] = (),
    low_rate: int = 22_050,
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


def baseline_systems(
    task: Task,
    autoencoder: Autoencoder,
    baseline: Baseline,
    *,
    low_rate: int,
    resampler: str,
    device: torch.device | str,
) -> tuple[System, System]:
    """A baseline on the undistorted input, and on what the autoencoder leaves of it (the paper's "VAE + X").

    As in the paper (section 4.1), the autoencoder of bwe transmits the *full* band and the low band is made from what
    arrives: that favours the baseline, whose input is then like what it was trained on.
    """
    run_baseline = baseline.run
    sent = task.targets if task.name == "bwe" else task.inputs

    def after(audio: ClipAudio) -> np.ndarray:
        signals = through_autoencoder(autoencoder, [audio.streams[name] for name in sent], device=device)
        if task.name == "bwe":
            signals = low_band(signals, sample_rate=audio.sample_rate, low_rate=low_rate, resampler=resampler)
        return finish(audio, signals)

    def undistorted(audio: ClipAudio) -> np.ndarray:
        return finish(audio, np.stack([audio.streams[name] for name in task.inputs]))

    def finish(audio: ClipAudio, signals: np.ndarray) -> np.ndarray:
        assert run_baseline is not None, "a row without weights is never run"
        return audio.without_margins(run_baseline(signals, audio.sample_rate))

    digest, trained = digest_of(task.name, baseline.digest), run_baseline is not None
    return (
        System(
            baseline.name,
            baseline.label,
            baseline.about,
            digest,
            undistorted if trained else None,
            count=baseline.count,
        ),
        System(
            f"{AFTER}{baseline.name}",
            f"Autoencoder + {baseline.label}",
            f"{baseline.label} after the autoencoder",
            digest_of(digest, autoencoder.spec.to_dict(), resampler),
            after if trained else None,
            BOTH,
            baseline.count,
        ),
    )


def module_systems(
    task: Task,
    autoencoder: Autoencoder,
    trained: TrainedModule,
    *,
    label: str,
    path: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[System, ...]:
    """Ours: decode(module(encode(inputs))). CheckpointError for a module of another task or another autoencoder.

    A module with a condition has several rows: with a random one (of the prior, lambda = 0), with the oracle's (mean of
    the posterior of the reference, lambda = 1), and between them, of which the balance alone is scored (figure 3).
    """
    if trained.task != task:
        raise CheckpointError(
            "the module was trained for another task", where=path, value=f"{trained.task.name}, not {task.name}"
        )
    trained.spec.require_same(autoencoder.spec, where=path, remedy="evaluate it with the autoencoder it was trained on")

    def run(audio: ClipAudio, *, share: float | None = None) -> np.ndarray:
        latents = encode(autoencoder, [audio.streams[name] for name in task.inputs], device=device)
        condition = None if share is None else condition_of(audio, share)
        return audio.without_margins(decode(autoencoder, trained(latents, condition), length=audio.length))

    def condition_of(audio: ClipAudio, share: float) -> Tensor:
        prior = trained.prior(1, seed=_seed_of(audio, seed)).to(device)
        if share == 0:
            return prior
        reference = encode(autoencoder, [audio.streams[name] for name in task.targets], device=device)
        return interpolated(trained.posterior(reference).mean, prior, share=share)

    def count() -> FlopCount:
        frames = autoencoder.spec.frames_in(1.0)
        example = torch.zeros(1, len(task.inputs) * autoencoder.spec.channels, frames, device=device)
        channels = trained.module.condition_channels
        condition = torch.zeros(1, channels, device=device) if channels else None
        return count_flops(
            lambda latents: trained.module(latents, condition),
            example,
            modules=[trained.module],
            seconds=frames / autoencoder.spec.frame_rate,
        )

    digest = digest_of(task.name, autoencoder.spec.to_dict(), file_digest(path))
    about = f"the input's latents through a module of {trained.num_parameters / 1e6:.1f} M parameters, then decoded"
    name, title = f"{MODULES}{label}", f"Ours ({label})"
    if trained.encoder is None:
        return (System(name, title, about, digest, run, BOTH, count),)
    return tuple(
        System(
            f"{name}{LAMBDA}{share:g}",
            {0.0: f"{title}, random c", 1.0: f"{title}, oracle c"}.get(share, f"{title}, lambda {share:g}"),
            f"{about}; condition: {CONDITIONS.get(share, f'{share:g} of the way from the random to the oracle one')}",
            digest_of(digest, share, 0 if share == 1 else seed),
            partial(run, share=share),
            BOTH,
            count,
            scored="all" if share in CONDITIONS else "balance",
        )
        for share in SHARES
    )


def estimate_of(system: System, audio: ClipAudio) -> np.ndarray:
    """What a system makes of a clip. EvaluationError for whatever goes wrong in it: a failing system is a failure of
    its row, and not the end of an evaluation."""
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
        raise EvaluationError(
            "decoded audio is shorter than the clip", value=f"{decoded.shape[-1]} of {length} samples"
        )
    return decoded.mean(dim=1)[:, :length].float().cpu().numpy()  # joint stereo decodes to two channels


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


def _as_many(signals: np.ndarray, targets: int) -> np.ndarray:
    """One input for all targets: (inputs, samples) -> (targets, samples)."""
    return signals if len(signals) == targets else np.repeat(signals, targets, axis=0)


def _seed_of(audio: ClipAudio, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{audio.clip.id}".encode()).digest()[:8], "big")
