"""The rows of trained modules: oracle and random conditions where the module takes one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reencoder_eval.baselines.baseline import digest_of
from reencoder_eval.clips.read import ClipAudio
from reencoder_eval.metrics.flops import FlopCount, count_flops
from reencoder_eval.systems.names import CONDITIONS, LAMBDA, MODULES, SHARES
from reencoder_eval.systems.system import BOTH, System, decode, encode
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.stores.digests import file_digest
from reencoder_pipeline.tasks import Task
from reencoder_trainer.module.condition import interpolated

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder
    from reencoder_trainer.trained_module import TrainedModule


@dataclass(frozen=True)
class ModuleSystem:
    """A trained module between encoder and decoder, all on `device`. `seed` draws the random conditions."""

    task: Task
    autoencoder: Autoencoder
    trained: TrainedModule
    seed: int
    device: torch.device | str

    def run(self, audio: ClipAudio, *, share: float | None = None) -> np.ndarray:
        """(targets, samples) of a clip, with the condition of `share`; None for a module that takes no condition."""
        latents = encode(self.autoencoder, [audio.streams[name] for name in self.task.inputs], device=self.device)
        condition = None if share is None else self.condition_of(audio, share)
        return audio.without_margins(decode(self.autoencoder, self.trained(latents, condition), length=audio.length))

    def condition_of(self, audio: ClipAudio, share: float) -> Tensor:
        """(1, H): the paper's lambda = `share`, from the prior's random condition (0) to the reference's own (1)."""
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{audio.clip.id}".encode()).digest()[:8], "big")
        prior = self.trained.prior(1, seed=seed).to(self.device)
        if share == 0:
            return prior
        reference = encode(self.autoencoder, [audio.streams[name] for name in self.task.targets], device=self.device)
        return interpolated(self.trained.posterior(reference).mean, prior, share=share)

    def count(self) -> FlopCount:
        spec, module = self.autoencoder.spec, self.trained.module
        frames = spec.frames_in(1.0)
        example = torch.zeros(1, len(self.task.inputs) * spec.channels, frames, device=self.device)
        channels = module.condition_channels
        condition = torch.zeros(1, channels, device=self.device) if channels else None
        seconds = frames / spec.frame_rate
        return count_flops(lambda latents: module(latents, condition), example, modules=[module], seconds=seconds)


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
            "the module was trained for another task", where=path, value=f"{trained.task.name}, not {task.name}",
            remedy=f"evaluate it with task: {trained.task.name}",
        )  # fmt: skip
    trained.spec.require_same(autoencoder.spec, where=path, remedy="evaluate it with the autoencoder it was trained on")
    system = ModuleSystem(task, autoencoder, trained, seed, device)
    digest = digest_of(task.name, autoencoder.spec.to_dict(), file_digest(path))
    about = f"the input's latents through a module of {trained.num_parameters / 1e6:.1f} M parameters, then decoded"
    name, title = f"{MODULES}{label}", f"Ours ({label})"
    if trained.encoder is None:
        return (System(name, title, about, digest, system.run, BOTH, system.count),)
    return tuple(
        System(
            f"{name}{LAMBDA}{share:g}",
            {0.0: f"{title}, random c", 1.0: f"{title}, oracle c"}.get(share, f"{title}, lambda {share:g}"),
            f"{about}; condition: {CONDITIONS.get(share, f'{share:g} of the way from the random to the oracle one')}",
            digest_of(digest, share, 0 if share == 1 else seed),
            partial(system.run, share=share),
            BOTH,
            system.count,
            scored="all" if share in CONDITIONS else "balance",
        )
        for share in SHARES
    )
