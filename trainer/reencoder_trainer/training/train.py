"""Trains a latent module on a latent cache; the run can be interrupted anywhere and resumed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.progress import ProgressLine
from reencoder_pipeline.tasks import get_task
from reencoder_pipeline.training.autocast import resolved
from reencoder_pipeline.training.interruptions import interruptions
from reencoder_pipeline.training.loop import Run, RunSettings
from reencoder_pipeline.training.ranks import joined_ranks
from reencoder_pipeline.training.run_folder import RunFolder, opened_run
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.training.make_learner import make_learner
from reencoder_trainer.training.run import ModuleTraining
from reencoder_trainer.training.stopwatch import Stopwatch
from reencoder_trainer.windows.draws import share_of
from reencoder_trainer.windows.mapped_windows import WindowLoader
from reencoder_trainer.windows.pooled_windows import PoolLoader, Windows
from reencoder_trainer.windows.read_ahead import ReadAhead

MAY_CHANGE = frozenset(
    {
        "steps", "cache", "out", "device", "threads", "valid_every", "valid_windows", "compile", "autoencoder",
        "checkpoint_steps", "checkpoint_minutes", "log_every", "tensorboard", "local_folder", "local_gigabytes",
        "checked_reads", "weights",
    }
)  # fmt: skip
"""Settings that a resumed run may change. (A cache may move; that it is the same cache is checked by its digest.)"""


@dataclass(frozen=True)
class TrainedRun:
    """What a finished training leaves: the module's file, its steps, and its last validation (empty if none)."""

    module: Path
    steps: int
    valid: dict[str, float]


def train(config: TrainConfig, *, resume: bool = False) -> TrainedRun:
    """Train a latent module on the windows of a cache.

    Batch, noise and learning rates are pure functions of (seed, step). So an interrupted run, even a killed one, goes
    on with `resume` from its last checkpoint to the very weights of an uninterrupted one: bit for bit on the CPU, given
    the same number of threads. SIGINT and SIGTERM save a checkpoint and leave with a KeyboardInterrupt that says the
    line which resumes. Under torchrun all processes share the global batch.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with joined_ranks(config.device) as ranks, interruptions() as interrupted, ExitStack() as held:
        # The run keeps what "auto" comes to here: it must not go on in another number format elsewhere.
        config = config.model_copy(update={"precision": resolved(config.precision, ranks.device)})
        share_of(config.batch_size, ranks.world_size)  # an error here leaves no run folder behind
        cache, task = _open_cache(config, interrupted), get_task(config.task)
        num_frames = cache.spec.frames_in(config.window_seconds)
        windows = held.enter_context(_opened_windows(config, cache, "train"))
        unseen = held.enter_context(_opened_windows(config, cache, "valid")) if config.valid_every else None
        learner = make_learner(config, cache, task, num_frames=num_frames, ranks=ranks, stopwatch=Stopwatch())

        folder = RunFolder(config.out, "module.safetensors")
        if ranks.is_first:
            held.enter_context(opened_run(folder, config, may_change=MAY_CHANGE, resume=resume))
        ahead = 2 if ranks.device.type == "cuda" else 0
        batches = ReadAhead(windows, config.batch_size, ranks=ranks, steps=config.steps, depth=ahead)
        training = ModuleTraining(
            folder, cache=cache, learner=learner, windows=windows, batches=held.enter_context(batches), unseen=unseen
        )
        run = Run(training, folder, RunSettings.of(config), ranks=ranks)
        if resume:
            run.restore()
        run.to_the_end(interrupted)
    return TrainedRun(folder.weights, run.step, training.valid)


def _opened_windows(config: TrainConfig, cache: LatentCache, split: str) -> AbstractContextManager[Windows]:
    """All windows of a split or, with `stream_shards`, those of a pool of that many shards at a time."""
    task, frames = get_task(config.task), cache.spec.frames_in(config.window_seconds)
    if config.stream_shards is None:
        return closing(WindowLoader(cache, task, split=split, num_frames=frames, seed=config.seed))
    pool = config.stream_shards
    return closing(PoolLoader(cache, task, split=split, num_frames=frames, seed=config.seed, pool_shards=pool))


def _open_cache(config: TrainConfig, interrupted: Callable[[], bool]) -> LatentCache:
    """The files of a cache at a URL are fetched when its windows are opened; an interruption ends that at once."""
    fetching = ProgressLine("fetching the cache", unit="B", scaled=True)

    def report(done: int, total: int) -> None:
        if interrupted():
            raise KeyboardInterrupt("stopped while the cache was fetched; the same command goes on from there")
        fetching(done, total)

    return open_cache(
        config.cache, checked=config.checked_reads, local_folder=config.local_folder,
        local_gigabytes=config.local_gigabytes, progress=report,
    )  # fmt: skip
