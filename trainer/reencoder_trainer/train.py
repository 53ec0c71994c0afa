"""Training: from a latent cache to a released module, in one loop that can stop anywhere."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from reencoder_pipeline.cache import LatentCache, open_cache
from reencoder_pipeline.errors import CheckpointError, ConfigError
from reencoder_pipeline.interruptions import interruptions
from reencoder_pipeline.journal import Journal
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.ranks import joined_ranks
from reencoder_pipeline.run_folder import RunFolder, open_run
from reencoder_pipeline.tasks import Task, get_task
from reencoder_trainer.checkpoint import (
    TrainedModule,
    TrainingState,
    load_state,
    save_module,
    save_state,
)
from reencoder_trainer.latent_module import SIZES, LatentModule
from reencoder_trainer.normalisation import Normalisation
from reencoder_trainer.step import Schedule, learning_rate, make_optimizer, update
from reencoder_trainer.validation import validate
from reencoder_trainer.windows import WindowLoader, share_of

MAY_CHANGE = frozenset(
    {
        "steps", "cache", "out", "device", "threads", "valid_every", "valid_windows",
        "checkpoint_steps", "checkpoint_minutes", "log_every", "tensorboard",
    }
)  # fmt: skip
"""Settings that a resumed run may change. (A cache may move; that it is the same cache is checked by its digest.)"""


@dataclass(frozen=True)
class TrainedRun:
    """What a finished training leaves: the module's file, its steps, and its last validation (empty if none)."""

    module: Path
    steps: int
    valid: dict[str, float]


def train(
    *,
    cache: Path,
    out: Path,
    task: str,
    size: Literal["S", "M"],
    blocks: int | None,
    width: int | None,
    residual: bool,
    steps: int,
    batch_size: int,
    window_seconds: float,
    lr: float,
    warmup_steps: int,
    schedule: Schedule,
    weight_decay: float,
    max_grad_norm: float,
    seed: int,
    valid_every: int,
    valid_windows: int,
    checkpoint_steps: int | None,
    checkpoint_minutes: float,
    log_every: int,
    tensorboard: bool,
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    resume: bool = False,
) -> TrainedRun:
    """Train a latent module on the windows of a cache; TrainConfig describes the arguments.

    Batch and learning rate are pure functions of (seed, step). So an interrupted run, even a killed one, goes on with
    `resume` from its last checkpoint to the very weights of an uninterrupted one: bit for bit on the CPU, given the
    same number of threads. SIGINT and SIGTERM save a checkpoint and leave with a KeyboardInterrupt that says the line
    which resumes. Under torchrun all processes share the global batch.
    """
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    del settings["resume"]
    if threads is not None:
        torch.set_num_threads(threads)
    with joined_ranks(device) as ranks, interruptions() as interrupted:
        latents, the_task = open_cache(cache), get_task(task)
        num_frames = latents.spec.frames_in(window_seconds)
        loader = WindowLoader(latents, the_task, split="train", num_frames=num_frames, seed=seed)
        share_of(batch_size, ranks.world_size)  # an error here leaves no run folder behind
        unseen = None
        if valid_every:
            unseen = WindowLoader(latents, the_task, split="valid", num_frames=num_frames, seed=seed)
        normalisation = Normalisation.of_task(latents.statistics, the_task).to(ranks.device)
        module = initial_module(
            normalisation,
            blocks=blocks or SIZES[size].blocks,
            width=width or SIZES[size].width,
            residual=residual,
            seed=seed,
        ).to(ranks.device)
        optimizer = make_optimizer(module, weight_decay=weight_decay)

        folder = RunFolder(out, "module.safetensors")
        if ranks.is_first:
            open_run(folder, settings, may_change=MAY_CHANGE, resume=resume)
        run = Run(
            folder,
            cache=latents,
            task=the_task,
            normalisation=normalisation,
            module=module,
            optimizer=optimizer,
            seed=seed,
        )
        if resume:
            run.restore()
            if ranks.is_first and run.step:
                run.release()  # a kill may have come between the two files of the checkpoint
        parallel = ranks.parallel(module)
        with (
            Journal(out, step=run.step, steps=steps, log_every=log_every, pending=run.pending, tensorboard=tensorboard)
            if ranks.is_first
            else nullcontext()
        ) as journal:
            if journal is not None:
                journal.say(run.opening(loader, num_frames=num_frames, steps=steps))
            while run.step < steps:
                metrics = update(
                    parallel,
                    optimizer,
                    loader.batch(run.step, batch_size=batch_size, rank=ranks.rank, world_size=ranks.world_size),
                    task=the_task,
                    normalisation=normalisation,
                    rate=learning_rate(run.step, peak=lr, warmup_steps=warmup_steps, schedule=schedule, steps=steps),
                    max_grad_norm=max_grad_norm,
                    ranks=ranks,
                    where=f"step {run.step + 1}, last good checkpoint {run.last_checkpoint}",
                )
                run.step += 1
                finished = run.step == steps
                stop = ranks.any(interrupted()) and not finished
                if journal is not None:
                    journal.train(run.step, metrics)
                    if unseen is not None and (finished or run.step % valid_every == 0):
                        run.valid = validate(
                            module,
                            unseen,
                            task=the_task,
                            normalisation=normalisation,
                            num_windows=valid_windows,
                            batch_size=batch_size,
                            device=ranks.device,
                        )
                        journal.valid(run.step, run.valid)
                    if finished or stop or run.is_due(every_steps=checkpoint_steps, every_minutes=checkpoint_minutes):
                        run.save(journal)
                if stop:
                    message = f"stopped at step {run.step}; to go on: reencoder-train {folder.config} --resume"
                    raise KeyboardInterrupt(message if ranks.is_first else "")
    return TrainedRun(folder.weights, run.step, run.valid)


class Run:
    """What changes while training, and how it reaches the disk and comes back."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        cache: LatentCache,
        task: Task,
        normalisation: Normalisation,
        module: LatentModule,
        optimizer: torch.optim.Optimizer,
        seed: int,
    ) -> None:
        self.folder, self.cache, self.task, self.normalisation = folder, cache, task, normalisation
        self.module, self.optimizer, self.seed = module, optimizer, seed
        self.step = 0
        self.valid: dict[str, float] = {}
        self.pending: list[dict[str, float]] = []
        self.last_checkpoint = "none yet"
        self._saved_at = time.monotonic()

    def opening(self, loader: WindowLoader, *, num_frames: int, steps: int) -> str:
        if self.step >= steps:
            return f"nothing to do: {self.folder.path} is at step {self.step} already, and {steps} steps were asked for"
        left_out = f"; {loader.too_short} shorter ones left out" if loader.too_short else ""
        return (
            f"{self.task.name}: {self.module.num_parameters:,} parameters, {loader.num_tracks} tracks with "
            f"{loader.num_windows:,} windows of {num_frames} frames{left_out}; steps {self.step} to {steps}"
        )

    def is_due(self, *, every_steps: int | None, every_minutes: float) -> bool:
        if every_steps is not None and self.step % every_steps == 0:
            return True
        return time.monotonic() - self._saved_at >= 60 * every_minutes

    def save(self, journal: Journal) -> None:
        """The journal's rows, then the state, then the module: each is durable before what builds on it."""
        journal.sync()
        state = TrainingState(
            step=self.step,
            module=self.module.state_dict(),
            optimizer=self.optimizer.state_dict(),
            pending=journal.pending,
            valid=self.valid,
            spec=self.cache.spec.to_dict(),
            cache=self.cache.digest,
        )
        save_state(state, self.folder.state)
        self.release()
        self.last_checkpoint = f"{self.folder.state} at step {self.step}"
        self._saved_at = time.monotonic()

    def release(self) -> None:
        """Write the module file; the same state gives the same bytes."""
        training = {"steps": self.step, "seed": self.seed, "cache": self.cache.digest, "valid": self.valid}
        trained = TrainedModule(self.module, self.task, self.cache.spec, self.normalisation, training)
        save_module(trained, self.folder.weights)

    def restore(self) -> None:
        """Take up the folder's training state; stay at step 0 if a kill came before the first."""
        path = self.folder.state
        if not path.exists():
            return
        state = load_state(path)
        remedy = "train on the cache that the run began with, or start another run with another out"
        LatentSpec.from_dict(state.spec, where=path).require_same(self.cache.spec, where=path, remedy=remedy)
        if state.cache != self.cache.digest:
            raise CheckpointError("the run began with another cache", where=path, value=self.cache.path, remedy=remedy)
        self.module.load_state_dict(state.module)
        self.optimizer.load_state_dict(state.optimizer)
        self.step, self.valid, self.pending = state.step, state.valid, state.pending
        self.last_checkpoint = f"{path} at step {self.step}"


def initial_module(normalisation: Normalisation, *, blocks: int, width: int, residual: bool, seed: int) -> LatentModule:
    """A module for these channels, its weights a function of the seed; the caller's random state is left alone."""
    channels = normalisation.inputs.num_channels, normalisation.targets.num_channels
    if residual and channels[0] != channels[1]:
        raise ConfigError(
            "a residual module has as many channels in as out",
            where="residual",
            value=f"{channels[0]} in, {channels[1]} out",
            remedy="residual: false for this task",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentModule(*channels, blocks=blocks, width=width, residual=residual)
