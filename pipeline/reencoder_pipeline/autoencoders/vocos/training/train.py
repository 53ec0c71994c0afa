"""Trains an autoencoder of the family, from music to one weights file; a run resumes bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.autoencoders.vocos.training.learner import Trainer
from reencoder_pipeline.autoencoders.vocos.training.validation import validate
from reencoder_pipeline.autoencoders.vocos.weights import load_vocos, save_vocos
from reencoder_pipeline.corpora.corpus import Track, read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.progress import Say
from reencoder_pipeline.training.autocast import resolved
from reencoder_pipeline.training.interruptions import interruptions
from reencoder_pipeline.training.loop import Run, RunSettings, Training
from reencoder_pipeline.training.metrics_log import MetricsLog
from reencoder_pipeline.training.music_excerpts import PcmExcerpts, decode_corpus
from reencoder_pipeline.training.ranks import Ranks, joined_ranks
from reencoder_pipeline.training.run_folder import RunFolder, opened_run

LOW_BAND_SHARE = 0.2  # of the excerpts: the autoencoder must reconstruct the low-band stream as well
MAY_CHANGE = frozenset(
    {
        "steps", "decay_steps", "source", "pcm", "out", "compile", "device", "threads", "tensorboard", "log_every",
        "valid_every", "valid_excerpts", "checkpoint_minutes",
    }
)  # fmt: skip


def train_autoencoder(config: AutoencoderTrainConfig, *, resume: bool, say: Say) -> Path:
    """Run (or continue) a training; returns the released weights: a moving average, in one safetensors file.

    A run is a folder: config.yaml, metrics.jsonl, tensorboard/, state.pt (for resume), autoencoder.safetensors. Batch k
    of the global batch is a pure function of (seed, k), so resuming is counting on, and torchrun changes nothing but
    the time. `steps` may grow or shrink between resumes: the learning rate is constant until `decay_steps` before the
    end. SIGINT and SIGTERM save and leave with a KeyboardInterrupt that says the line which resumes.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with joined_ranks(config.device) as ranks, interruptions() as interrupted, ExitStack() as held:
        if config.batch_size % ranks.world_size:
            raise ConfigError(
                f"the batch size is no multiple of the {ranks.world_size} processes", where="batch_size",
                value=config.batch_size, remedy="give every process as many excerpts",
            )  # fmt: skip
        # The run keeps what "auto" comes to here: it must not go on in another number format elsewhere.
        config = config.model_copy(update={"precision": resolved(config.precision, ranks.device)})
        folder = RunFolder(Path(config.out), "autoencoder.safetensors")
        if ranks.is_first:
            held.enter_context(opened_run(folder, config, may_change=MAY_CHANGE, resume=resume))
        shape = config.model
        excerpts, unseen = open_music(config, shape, ranks, say=say)
        trainer = Trainer(shape, config, ranks)
        run = Run(AutoencoderTraining(folder, trainer, excerpts, unseen), folder, RunSettings.of(config), ranks=ranks)
        if resume:
            run.restore()
        if config.init and not run.step:
            start_from(trainer, Path(config.init))
        run.to_the_end(interrupted)
    return folder.weights


class AutoencoderTraining(Training):
    """`unseen` (N, 1, L) is what it is validated on, if anything."""

    command = "reencoder-autoencoder train"

    def __init__(self, folder: RunFolder, trainer: Trainer, excerpts: PcmExcerpts, unseen: torch.Tensor | None) -> None:
        self.folder, self.trainer, self.excerpts, self.unseen = folder, trainer, excerpts, unseen
        self.state, self.load_state = trainer.state, trainer.load_state

    def update(self, step: int, *, where: str) -> dict[str, float]:
        ranks, batch_size = self.trainer.ranks, self.trainer.config.batch_size
        batch = self.excerpts.batch(step, batch_size, rank=ranks.rank, world_size=ranks.world_size)
        return self.trainer.update(torch.from_numpy(batch), step, where=where)

    def validate(self, step: int, log: MetricsLog) -> None:
        if self.unseen is not None:
            validate(self.trainer.average, self.unseen, filterbanks=self.trainer.filterbanks, log=log, step=step)

    def release(self, step: int) -> None:
        said = provenance(self.trainer.config, step, hours=self.excerpts.hours)
        save_vocos(self.trainer.average, self.folder.weights, training=said)


def open_music(
    config: AutoencoderTrainConfig, shape: VocosConfig, ranks: Ranks, *, say: Say
) -> tuple[PcmExcerpts, torch.Tensor | None]:
    """The training excerpts, and fixed ones (N, 1, L) of the validation split, full band. Rank 0 decodes, once."""
    tracks = assign_splits(read_corpus(Path(config.source)), valid_share=0.05, test_share=0.1)
    num_samples = round(config.excerpt_seconds * shape.sample_rate / shape.hop) * shape.hop

    def open_split(split: str, *, low_band_share: float) -> PcmExcerpts:
        files = decode_corpus(
            [track for track in tracks if track.split == split], Path(config.pcm),
            sample_rate=shape.sample_rate, workers=config.threads, say=say if ranks.is_first else lambda _: None,
        )  # fmt: skip
        return PcmExcerpts(
            files, num_samples=num_samples, sample_rate=shape.sample_rate, low_band_share=low_band_share,
            seed=config.seed,
        )  # fmt: skip

    say(f"{_count(tracks, 'train')} of {len(tracks)} tracks are for training")
    if not ranks.is_first:
        torch.distributed.barrier()
    excerpts = open_split("train", low_band_share=LOW_BAND_SHARE)
    unseen = None
    if config.valid_every and _count(tracks, "valid"):
        chosen = open_split("valid", low_band_share=0.0).batch(0, config.valid_excerpts)
        unseen = torch.from_numpy(chosen).to(ranks.device)
    if ranks.is_first and ranks.world_size > 1:
        torch.distributed.barrier()
    return excerpts, unseen


def provenance(config: AutoencoderTrainConfig, step: int, *, hours: float) -> dict[str, Any]:
    """What the weights file says about its training."""
    described = {"seed", "batch_size", "excerpt_seconds", "lr", "decay_steps", "ema", "losses"}
    described |= {"adversary"} if config.adversary.weight else set()
    music = {"manifest": Path(config.source).name, "hours": round(hours, 2)}
    return {"steps": step, **config.model_dump(mode="json", include=described), "music": music}


def start_from(trainer: Trainer, path: Path) -> None:
    """Take the weights of another training of the same shape; optimiser and steps start from nothing."""
    weights = load_vocos(path)
    if weights.config != trainer.model.config:
        raise ConfigError(
            "the weights to start from have another shape", where="init", value=weights.config,
            remedy="give weights of the shape in model",
        )  # fmt: skip
    for model in (trainer.model, trainer.average):
        model.load_state_dict(weights.state_dict())


def _count(tracks: Sequence[Track], split: str) -> int:
    return sum(track.split == split for track in tracks)
