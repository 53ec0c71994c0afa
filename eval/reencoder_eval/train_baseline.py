"""Trains a baseline against its discriminators on excerpts of music (`reencoder-eval train-baseline`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reencoder_eval.baselines.adversarial import AdversarialTraining
from reencoder_eval.config import BaselineTrainConfig
from reencoder_eval.metrics.spectral import level_dbfs, stft_distance
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.errors import ConfigError, EvaluationError, TrainingError
from reencoder_pipeline.progress import Say
from reencoder_pipeline.training.interruptions import interruptions
from reencoder_pipeline.training.loop import Run, RunSettings, Training
from reencoder_pipeline.training.metrics_log import MetricsLog
from reencoder_pipeline.training.music_excerpts import PcmExcerpts, decode_corpus
from reencoder_pipeline.training.ranks import joined_ranks
from reencoder_pipeline.training.run_folder import RunFolder, opened_run
from reencoder_pipeline.training.state_file import load_optimizer

SAMPLE_RATE = 44_100
MAY_CHANGE = frozenset(
    {
        "steps", "source", "pcm", "out", "device", "threads", "valid_every", "valid_excerpts", "checkpoint_minutes",
        "log_every", "tensorboard",
    }
)  # fmt: skip
QUIET_DBFS = -60.0  # an excerpt whose target is below says nothing of a distance


def train_baseline(config: BaselineTrainConfig, *, resume: bool, say: Say) -> Path:
    """Train on random stereo excerpts and return the path of the released weights.

    Batch k is a pure function of (seed, k), so resuming is counting on. Released are the weights with the smallest
    validation STFT-D so far, as MusicHiFi does it; without validations, or with silence alone in them, the last ones.
    One process: no torchrun.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with joined_ranks(config.device) as ranks, interruptions() as interrupted, ExitStack() as held:
        if ranks.world_size > 1:
            raise ConfigError(
                "a baseline is trained by one process", where="torchrun", value=f"{ranks.world_size} processes",
                remedy="run the command without torchrun",
            )  # fmt: skip
        folder = RunFolder(config.out, "baseline.safetensors")
        held.enter_context(opened_run(folder, config, may_change=MAY_CHANGE, resume=resume))
        excerpts, unseen = open_music(config, say=say)
        training = BaselineTraining(folder, config, recipe(config), excerpts, unseen, device=ranks.device)
        run = Run(training, folder, RunSettings.of(config), ranks=ranks)
        if resume:
            run.restore()
        run.to_the_end(interrupted)
    return folder.weights


def recipe(config: BaselineTrainConfig) -> AdversarialTraining:
    """The baseline's own losses, discriminators and optimiser settings, at the sizes of the config."""
    if config.baseline == "aero":
        from reencoder_eval.baselines.aero.model import AeroConfig
        from reencoder_eval.baselines.aero.training import aero_training

        sizes = AeroConfig(channels=config.channels or 48)
        return aero_training(sizes, filters=config.discriminator_filters or 16, seed=config.seed)
    from reencoder_eval.baselines.musichifi.training import musichifi_training

    return musichifi_training(
        "bwe" if config.baseline == "musichifi_bwe" else "m2s",
        channels=config.channels or 1536,
        filters=config.discriminator_filters or 32,
        seed=config.seed,
    )


def open_music(config: BaselineTrainConfig, *, say: Say) -> tuple[PcmExcerpts, Tensor | None]:
    """Stereo excerpts of the train split, and fixed ones (N, 2, n) of the valid split."""
    tracks = assign_splits(read_corpus(config.source), valid_share=0.05, test_share=0.1)
    task = "m2s" if config.baseline == "musichifi_m2s" else "bwe"

    def open_split(split: str) -> PcmExcerpts:
        chosen = [t for t in tracks if t.split == split and (t.tasks is None or task in t.tasks)]
        if not chosen:
            raise EvaluationError(
                f"no track of the {split} split suits {task}", where=config.source,
                remedy="give other music, or set valid_every to 0 if only validation lacks tracks",
            )  # fmt: skip
        files = decode_corpus(chosen, config.pcm, sample_rate=SAMPLE_RATE, workers=config.threads, say=say)
        num_samples = round(config.excerpt_seconds * SAMPLE_RATE)
        return PcmExcerpts(files, num_samples=num_samples, sample_rate=SAMPLE_RATE, stereo=True, seed=config.seed)

    excerpts = open_split("train")
    if not config.valid_every:
        return excerpts, None
    return excerpts, torch.from_numpy(open_split("valid").batch(0, config.valid_excerpts))


class BaselineTraining(Training):
    """A generator against its discriminator. Released are the weights that did best on `unseen` (N, 2, n) so far."""

    command = "reencoder-eval train-baseline"

    def __init__(
        self,
        folder: RunFolder,
        config: BaselineTrainConfig,
        training: AdversarialTraining,
        excerpts: PcmExcerpts,
        unseen: Tensor | None,
        *,
        device: torch.device,
    ) -> None:
        self.folder, self.config, self.excerpts, self.device = folder, config, excerpts, device
        self.learner, self.best = Learner(training, device=device), math.inf
        self.unseen = None if unseen is None else unseen.to(device)

    def update(self, step: int, *, where: str) -> dict[str, float]:
        batch = torch.from_numpy(self.excerpts.batch(step, self.config.batch_size)).to(self.device)
        return self.learner.update(batch, step, adversarial=step >= self.config.adversary_from, where=where)

    def validate(self, step: int, log: MetricsLog) -> None:
        if self.unseen is None:
            return
        distance = validate(self.learner.training, self.unseen)
        log.valid(step, {"stft_d": distance})
        if distance < self.best:
            self.best = distance
            self._write_weights(step)

    def state(self) -> dict[str, Any]:
        return {"best": self.best, **self.learner.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state(state)
        self.best = float(state["best"])

    def release(self, step: int) -> None:
        """Write the last weights where there are no best ones: no validation, or none yet of anything but silence."""
        if self.unseen is None or math.isinf(self.best):
            self._write_weights(step)

    def _write_weights(self, step: int) -> None:
        config = self.config
        said = {"steps": step, "stft_d": None if math.isinf(self.best) else round(self.best, 4)}
        said |= {name: getattr(config, name) for name in ("batch_size", "excerpt_seconds", "seed", "adversary_from")}
        said |= {"music": {"manifest": config.source.name, "hours": round(self.excerpts.hours, 2)}}
        self.learner.training.save(self.folder.weights, said)


class Learner:
    """Generator, discriminator and their optimisers, on one device: all that changes in a training."""

    def __init__(self, training: AdversarialTraining, *, device: torch.device) -> None:
        self.training = training
        self.parts = {"generator": training.generator.to(device), "discriminator": training.discriminator.to(device)}
        self.optimizers = {
            name: torch.optim.AdamW(
                part.parameters(),
                lr=training.learning_rate,
                betas=training.betas,
                weight_decay=training.weight_decay,
            )
            for name, part in self.parts.items()
        }

    def update(self, excerpt: Tensor, step: int, *, adversarial: bool, where: str) -> dict[str, float]:
        """The discriminator first, then the generator against what it has learnt; (B, 2, n) in, metrics out.

        If not `adversarial`, only the losses that need no discriminator count, and the discriminator does not learn.
        """
        training = self.training
        for part in self.parts.values():
            part.train()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * training.decay**step
        given, target = training.prepare(excerpt)
        estimate = training.generator(given)
        metrics = {}
        if adversarial:
            loss = training.discriminator_loss(
                training.discriminator(estimate.detach()), training.discriminator(target)
            )
            metrics["discriminator"] = self._descend(loss, "discriminator", where=where)
            with torch.no_grad():
                of_target = training.discriminator(target)
            terms = training.generator_loss(estimate, target, training.discriminator(estimate), of_target)
        else:
            terms = training.generator_loss(estimate, target, [], [])
        metrics |= {name: float(term.detach()) for name, term in terms.items()}
        metrics["loss"] = self._descend(torch.stack(list(terms.values())).sum(), "generator", where=where)
        return metrics

    def _descend(self, loss: Tensor, name: str, *, where: str) -> float:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of the {name} is not finite", where=where, value=float(loss.detach()),
                remedy="train on more excerpts at a time, or on other music",
            )  # fmt: skip
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        parts = {**self.parts, **{f"{name}_optimizer": optimizer for name, optimizer in self.optimizers.items()}}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
            load_optimizer(self.optimizers[name], state[f"{name}_optimizer"])


@torch.no_grad()
def validate(training: AdversarialTraining, unseen: Tensor) -> float:
    """Mean STFT-D of the estimates of (N, 2, n) excerpts whose target is not silent; infinite if all are."""
    training.generator.eval()
    distances = []
    for excerpt in unseen:
        given, target = training.prepare(excerpt[None])
        reference = target[0, 0].cpu().numpy()
        if level_dbfs(reference) >= QUIET_DBFS:
            distances.append(stft_distance(training.generator(given)[0, 0].cpu().numpy(), reference))
    return float(np.mean(distances)) if distances else math.inf
