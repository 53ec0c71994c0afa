"""Training: from a latent cache to a released module, in one loop that can stop anywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.tasks import get_task
from reencoder_pipeline.training.autocast import resolved
from reencoder_pipeline.training.interruptions import interruptions
from reencoder_pipeline.training.metrics_log import LINE_EVERY_SECONDS, Journal
from reencoder_pipeline.training.ranks import joined_ranks
from reencoder_pipeline.training.run_folder import RunFolder, opened_run
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.training.alarms import Alarms
from reencoder_trainer.training.make_learner import make_learner
from reencoder_trainer.training.run import Run
from reencoder_trainer.training.stopwatch import Stopwatch
from reencoder_trainer.training.validation import validate
from reencoder_trainer.windows.draws import share_of
from reencoder_trainer.windows.mapped_windows import Windows
from reencoder_trainer.windows.open_windows import open_windows
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
        # The run keeps what "auto" comes to here: it must not go on in another precision elsewhere.
        config = config.model_copy(update={"precision": resolved(config.precision, ranks.device)})
        share_of(config.batch_size, ranks.world_size)  # an error here leaves no run folder behind
        cache, task = _open_cache(config, interrupted), get_task(config.task)
        num_frames = cache.spec.frames_in(config.window_seconds)

        def windows_of(split: str) -> Windows:
            windows = open_windows(
                cache, task, split=split, num_frames=num_frames, seed=config.seed, stream_shards=config.stream_shards
            )
            return held.enter_context(closing(windows))

        loader = windows_of("train")
        unseen = windows_of("valid") if config.valid_every else None
        stopwatch = Stopwatch()
        learner = make_learner(config, cache, task, num_frames=num_frames, ranks=ranks, stopwatch=stopwatch)

        folder = RunFolder(config.out, "module.safetensors")
        if ranks.is_first:
            held.enter_context(opened_run(folder, config, may_change=MAY_CHANGE, resume=resume))
        run = Run(folder, cache=cache, learner=learner, num_frames=num_frames)
        if resume:
            run.restore()
            if ranks.is_first and run.step:
                run.release()  # a kill may have come between the two files of the checkpoint
        batches = ReadAhead(
            loader, batch_size=config.batch_size, rank=ranks.rank, world_size=ranks.world_size, steps=config.steps,
            depth=2 if ranks.device.type == "cuda" else 0, pin=ranks.device.type == "cuda",
        )  # fmt: skip
        with batches, (
            Journal(
                folder.path, step=run.step, steps=config.steps, log_every=config.log_every, pending=run.pending,
                tensorboard=config.tensorboard, timings=stopwatch.shares,
            )
            if ranks.is_first
            else nullcontext()
        ) as journal:  # fmt: skip
            alarms = Alarms(warmup_steps=config.warmup_steps)
            if journal is not None:
                journal.say(run.opening(loader, steps=config.steps))
            while run.step < config.steps:
                with stopwatch.phase("data"):
                    batch = batches.batch(run.step)
                where = f"step {run.step + 1}, last good checkpoint {run.last_checkpoint}"
                metrics = learner.update(batch, run.step, where=where)
                run.step += 1
                finished = run.step == config.steps
                stop = ranks.any(interrupted()) and not finished
                if journal is not None:
                    journal.train(run.step, metrics)
                    journal.warn(run.step, alarms.update(metrics))
                    if unseen is not None and (finished or run.step % config.valid_every == 0):
                        run.valid = validate(
                            learner.average,
                            unseen,
                            task=task,
                            normalisation=learner.normalisation,
                            num_windows=config.valid_windows,
                            batch_size=config.batch_size,
                            precision=config.precision,
                            seed=config.seed,
                            device=ranks.device,
                        )
                        journal.valid(run.step, run.valid)
                        journal.warn(run.step, alarms.valid(run.step, run.valid))
                    if finished or stop or run.is_due():
                        run.save(journal)
                if stop:
                    message = f"stopped at step {run.step}; to go on: reencoder-train {folder.config} --resume"
                    raise KeyboardInterrupt(message if ranks.is_first else "")
    return TrainedRun(folder.weights, run.step, run.valid)


def _open_cache(config: TrainConfig, interrupted: Callable[[], bool]) -> LatentCache:
    """Of a cache at a URL, files are fetched when the loaders are made: said on stderr, and left by an interruption."""
    shown = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown
        if interrupted():
            raise KeyboardInterrupt("stopped while the cache was fetched; the same command goes on from there")
        if time.monotonic() - shown > LINE_EVERY_SECONDS:
            shown = time.monotonic()
            print(f"fetching the cache: {done / 1e9:.2f} of {total / 1e9:.2f} GB", file=sys.stderr, flush=True)

    return open_cache(
        config.cache, checked=config.checked_reads, local_folder=config.local_folder,
        local_gigabytes=config.local_gigabytes, progress=report,
    )  # fmt: skip
