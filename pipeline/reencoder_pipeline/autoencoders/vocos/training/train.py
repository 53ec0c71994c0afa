"""Train an autoencoder of the family: from music to one weights file, resumable bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
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
from reencoder_pipeline.errors import CheckpointError, ConfigError
from reencoder_pipeline.training.autocast import resolved
from reencoder_pipeline.training.interruptions import interruptions
from reencoder_pipeline.training.metrics_log import Journal
from reencoder_pipeline.training.music_excerpts import PcmExcerpts, decode_corpus
from reencoder_pipeline.training.ranks import Ranks, joined_ranks
from reencoder_pipeline.training.run_folder import RunFolder, opened_run
from reencoder_pipeline.training.state_file import read_state, write_state

LOW_BAND_SHARE = 0.2  # of the excerpts: the autoencoder must reconstruct the low-band stream as well
MAY_CHANGE = frozenset(
    {
        "steps", "decay_steps", "source", "pcm", "out", "compile", "device", "threads", "tensorboard", "log_every",
        "valid_every", "valid_excerpts", "checkpoint_minutes",
    }
)  # fmt: skip


def train_autoencoder(config: AutoencoderTrainConfig, *, resume: bool, progress: Callable[[str], None]) -> Path:
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
            raise ConfigError("not a multiple of the processes", where="batch_size", value=config.batch_size)
        # The run keeps what "auto" comes to here: it must not go on in another precision elsewhere.
        config = config.model_copy(update={"precision": resolved(config.precision, ranks.device)})
        folder = RunFolder(Path(config.out), "autoencoder.safetensors")
        if ranks.is_first:
            held.enter_context(opened_run(folder, config, may_change=MAY_CHANGE, resume=resume))
        shape = config.model
        excerpts, unseen = open_music(config, shape, ranks, progress=progress)
        trainer = Trainer(shape, config, ranks)
        step = restore(trainer, folder) if resume and folder.state.exists() else 0
        if config.init and not step:
            start_from(trainer, Path(config.init))

        saved = time.monotonic()
        with (
            Journal(
                folder.path, step=step, steps=config.steps, log_every=config.log_every, pending=[],
                tensorboard=config.tensorboard, headline="loss",
            )
            if ranks.is_first
            else nullcontext()
        ) as journal:  # fmt: skip
            while step < config.steps:
                batch = excerpts.batch(step, config.batch_size, rank=ranks.rank, world_size=ranks.world_size)
                metrics = trainer.update(torch.from_numpy(batch), step)
                step += 1
                finished = step == config.steps
                stop = ranks.any(interrupted()) and not finished
                if journal is not None:
                    journal.train(step, metrics)
                    if unseen is not None and (finished or step % config.valid_every == 0):
                        validate(trainer.average, unseen, filterbanks=trainer.filterbanks, journal=journal, step=step)
                    if finished or stop or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                        save(trainer, folder, step, journal, hours=excerpts.hours)
                        saved = time.monotonic()
                if stop:
                    message = f"stopped at step {step}; to go on: reencoder-autoencoder train {folder.config} --resume"
                    raise KeyboardInterrupt(message if ranks.is_first else "")
    return folder.weights


def open_music(
    config: AutoencoderTrainConfig, shape: VocosConfig, ranks: Ranks, *, progress: Callable[[str], None]
) -> tuple[PcmExcerpts, torch.Tensor | None]:
    """The training excerpts, and fixed ones (N, 1, L) of the validation split, full band. Rank 0 decodes, once."""
    tracks = assign_splits(read_corpus(Path(config.source)), valid_share=0.05, test_share=0.1)
    num_samples = round(config.excerpt_seconds * shape.sample_rate / shape.hop) * shape.hop

    def open_split(split: str, *, low_band_share: float) -> PcmExcerpts:
        files = decode_corpus(
            [track for track in tracks if track.split == split], Path(config.pcm),
            sample_rate=shape.sample_rate, workers=config.threads, progress=progress if ranks.is_first else _silent,
        )  # fmt: skip
        return PcmExcerpts(
            files, num_samples=num_samples, sample_rate=shape.sample_rate, low_band_share=low_band_share,
            seed=config.seed,
        )  # fmt: skip

    progress(f"{_count(tracks, 'train')} of {len(tracks)} tracks are for training")
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


def save(trainer: Trainer, folder: RunFolder, step: int, journal: Journal, *, hours: float) -> None:
    """The journal's rows, then the state (all that resume needs), then the released file made from it."""
    journal.sync()
    settings = trainer.config.model_dump(mode="json")
    write_state(folder.state, {"step": step, **trainer.state()}, kind=folder.kind, settings=settings)
    save_vocos(trainer.average, folder.weights, training=provenance(trainer.config, step, hours=hours))


def provenance(config: AutoencoderTrainConfig, step: int, *, hours: float) -> dict[str, Any]:
    """What the weights file says of its training."""
    described = {"seed", "batch_size", "excerpt_seconds", "lr", "decay_steps", "ema", "losses"}
    described |= {"adversary"} if config.adversary.weight else set()
    music = {"manifest": Path(config.source).name, "hours": round(hours, 2)}
    return {"steps": step, **config.model_dump(mode="json", include=described), "music": music}


def restore(trainer: Trainer, folder: RunFolder) -> int:
    """Take up a training state; returns its step."""
    state = read_state(folder.state, kind=folder.kind)
    try:
        trainer.load_state(state)
        return int(state["step"])
    except Exception as error:
        raise CheckpointError(
                "the training state is of another recipe than this configuration's", where=folder.state,
                value=str(error)[:300], remedy="start another run with another out",
            ) from error  # fmt: skip


def start_from(trainer: Trainer, path: Path) -> None:
    """Take the weights of another training of the same shape; optimiser and steps begin anew."""
    weights = load_vocos(path)
    if weights.config != trainer.model.config:
        raise ConfigError("weights of another shape", where="init", value=weights.config)
    for model in (trainer.model, trainer.average):
        model.load_state_dict(weights.state_dict())


def _count(tracks: Sequence[Track], split: str) -> int:
    return sum(track.split == split for track in tracks)


def _silent(_: str) -> None:
    return None
