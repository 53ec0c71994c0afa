"""`reencoder-eval train-baseline`: a baseline against its discriminators, on excerpts of music, start to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reencoder_eval.baselines.adversarial import AdversarialTraining
from reencoder_eval.config import BaselineTrainConfig
from reencoder_eval.metrics.spectral import level_dbfs, stft_distance
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.errors import CheckpointError, ConfigError, EvaluationError, TrainingError
from reencoder_pipeline.training.interruptions import interruptions
from reencoder_pipeline.training.metrics_log import Journal
from reencoder_pipeline.training.music_excerpts import PcmExcerpts, decode_corpus
from reencoder_pipeline.training.ranks import joined_ranks
from reencoder_pipeline.training.run_folder import RunFolder, opened_run
from reencoder_pipeline.training.state_file import load_optimizer, read_state, write_state

SAMPLE_RATE = 44_100
MAY_CHANGE = frozenset(
    {
        "steps", "source", "pcm", "out", "device", "threads", "valid_every", "valid_excerpts", "checkpoint_minutes",
        "log_every", "tensorboard",
    }
)  # fmt: skip
QUIET_DBFS = -60.0  # an excerpt whose target is below says nothing of a distance


def train_baseline(config: BaselineTrainConfig, *, resume: bool, progress: Callable[[str], None]) -> Path:
    """Train on random stereo excerpts and return the path of the released weights.

    Batch k is a pure function of (seed, k), so resuming is counting on. Released are the weights with the smallest
    validation STFT-D so far, as MusicHiFi does it; without validations, or with silence alone in them, the last ones.
    One process: no torchrun.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with joined_ranks(config.device) as ranks, interruptions() as interrupted, ExitStack() as held:
        if ranks.world_size > 1:
            raise ConfigError("baselines are trained by one process", where="torchrun", value=ranks.world_size)
        folder = RunFolder(config.out, "baseline.safetensors")
        held.enter_context(opened_run(folder, config, may_change=MAY_CHANGE, resume=resume))
        excerpts, unseen = open_music(config, progress=progress)
        learner = Learner(recipe(config), device=ranks.device)
        if resume and folder.state.exists():
            learner.load(folder)

        saved = time.monotonic()
        with Journal(
            folder.path, step=learner.step, steps=config.steps, log_every=config.log_every, pending=learner.pending,
            tensorboard=config.tensorboard, headline="loss",
        ) as journal:  # fmt: skip
            while learner.step < config.steps:
                batch = torch.from_numpy(excerpts.batch(learner.step, config.batch_size))
                metrics = learner.update(batch.to(ranks.device), adversarial=learner.step >= config.adversary_from)
                finished, stop = learner.step == config.steps, interrupted()
                journal.train(learner.step, metrics)
                if unseen is not None and (finished or learner.step % config.valid_every == 0):
                    distance = validate(learner.training, unseen.to(ranks.device))
                    journal.valid(learner.step, {"stft_d": distance})
                    if distance < learner.best:
                        learner.best = distance
                        release(config, learner, folder, hours=excerpts.hours)
                if finished or stop or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                    journal.sync()
                    learner.save(folder, config, pending=journal.pending)
                    if unseen is None or math.isinf(learner.best):  # nothing to choose by, or not yet
                        release(config, learner, folder, hours=excerpts.hours)
                    saved = time.monotonic()
                if stop and not finished:
                    line = f"reencoder-eval train-baseline {folder.config} --resume"
                    raise KeyboardInterrupt(f"stopped at step {learner.step}; to go on: {line}")
    return folder.weights


def recipe(config: BaselineTrainConfig) -> AdversarialTraining:
    """The baseline's own losses, discriminators and optimiser settings, at the sizes of the config."""
    if config.baseline == "aero":
        from reencoder_eval.baselines.aero.training import aero_training

        return aero_training(
            channels=config.channels or 48, discriminator_filters=config.discriminator_filters or 16, seed=config.seed
        )
    from reencoder_eval.baselines.musichifi.training import musichifi_training

    return musichifi_training(
        "bwe" if config.baseline == "musichifi_bwe" else "m2s",
        channels=config.channels or 1536,
        filters=config.discriminator_filters or 32,
        seed=config.seed,
    )


def open_music(config: BaselineTrainConfig, *, progress: Callable[[str], None]) -> tuple[PcmExcerpts, Tensor | None]:
    """Stereo excerpts of the train split, and fixed ones (N, 2, n) of the valid split."""
    tracks = assign_splits(read_corpus(config.source), valid_share=0.05, test_share=0.1)
    task = "m2s" if config.baseline == "musichifi_m2s" else "bwe"

    def open_split(split: str) -> PcmExcerpts:
        chosen = [t for t in tracks if t.split == split and (t.tasks is None or task in t.tasks)]
        if not chosen:
            raise EvaluationError(f"no track of the {split} split suits {task}", where=config.source)
        files = decode_corpus(chosen, config.pcm, sample_rate=SAMPLE_RATE, workers=config.threads, progress=progress)
        num_samples = round(config.excerpt_seconds * SAMPLE_RATE)
        return PcmExcerpts(files, num_samples=num_samples, sample_rate=SAMPLE_RATE, stereo=True, seed=config.seed)

    excerpts = open_split("train")
    if not config.valid_every:
        return excerpts, None
    return excerpts, torch.from_numpy(open_split("valid").batch(0, config.valid_excerpts))


class Learner:
    """Generator, discriminator and their optimisers, on one device; what a training is, between two steps."""

    def __init__(self, training: AdversarialTraining, *, device: torch.device) -> None:
        self.training, self.step, self.best = training, 0, math.inf
        self.pending: list[dict[str, float]] = []
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

    def update(self, excerpt: Tensor, *, adversarial: bool) -> dict[str, float]:
        """The discriminator first, then the generator against what it has learnt; (B, 2, n) in, metrics out.

        Not `adversarial`: the losses that need no discriminator alone, and it does not learn.
        """
        training = self.training
        for part in self.parts.values():
            part.train()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * training.decay**self.step
        given, target = training.prepare(excerpt)
        estimate = training.generate(given)
        metrics = {}
        if adversarial:
            loss = training.discriminator_loss(
                training.discriminator(estimate.detach()), training.discriminator(target)
            )
            metrics["discriminator"] = self._descend(loss, "discriminator")
            with torch.no_grad():
                of_target = training.discriminator(target)
            terms = training.generator_loss(estimate, target, training.discriminator(estimate), of_target)
        else:
            terms = training.generator_loss(estimate, target, [], [])
        metrics |= {name: float(term.detach()) for name, term in terms.items()}
        metrics["loss"] = self._descend(torch.stack(list(terms.values())).sum(), "generator")
        self.step += 1
        return metrics

    def _descend(self, loss: Tensor, name: str) -> float:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of the {name} is not finite", where=f"step {self.step + 1}", value=float(loss.detach())
            )
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def save(self, folder: RunFolder, config: BaselineTrainConfig, *, pending: list[dict[str, float]]) -> None:
        state: dict[str, Any] = {"step": self.step, "best": self.best, "pending": pending}
        for name, part in self.parts.items():
            state |= {name: part.state_dict(), f"{name}_optimizer": self.optimizers[name].state_dict()}
        write_state(folder.state, state, kind=folder.kind, settings=config.model_dump(mode="json"))

    def load(self, folder: RunFolder) -> None:
        state = read_state(folder.state, kind=folder.kind)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
                load_optimizer(self.optimizers[name], state[f"{name}_optimizer"])
            self.step, self.best, self.pending = int(state["step"]), float(state["best"]), list(state["pending"])
        except Exception as error:
            raise CheckpointError(
                "the training state is of another recipe than this configuration's", where=folder.state,
                value=str(error)[:300], remedy="start another run with another out",
            ) from error  # fmt: skip


@torch.no_grad()
def validate(training: AdversarialTraining, unseen: Tensor) -> float:
    """Mean STFT-D of the estimates of (N, 2, n) excerpts whose target is not silent; infinite if all are."""
    training.generator.eval()
    distances = []
    for excerpt in unseen:
        given, target = training.prepare(excerpt[None])
        reference = target[0, 0].cpu().numpy()
        if level_dbfs(reference) >= QUIET_DBFS:
            distances.append(stft_distance(training.generate(given)[0, 0].cpu().numpy(), reference))
    return float(np.mean(distances)) if distances else math.inf


def release(config: BaselineTrainConfig, learner: Learner, folder: RunFolder, *, hours: float) -> None:
    """The weights file that an evaluation reads, with what it says of its training."""
    said = {"steps": learner.step, "stft_d": None if math.isinf(learner.best) else round(learner.best, 4)}
    said |= {name: getattr(config, name) for name in ("batch_size", "excerpt_seconds", "seed", "adversary_from")}
    said |= {"music": {"manifest": config.source.name, "hours": round(hours, 2)}}
    generator: nn.Module = learner.training.generator
    if config.baseline == "aero":
        from reencoder_eval.baselines.aero.checkpoint import save_aero
        from reencoder_eval.baselines.aero.model import Aero

        assert isinstance(generator, Aero)
        save_aero(folder.weights, generator, training=said)
    else:
        from reencoder_eval.baselines.musichifi.checkpoint import save_musichifi
        from reencoder_eval.baselines.musichifi.model import MusicHiFi

        assert isinstance(generator, MusicHiFi)
        save_musichifi(folder.weights, generator, training=said)
