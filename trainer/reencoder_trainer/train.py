"""Training: from a latent cache to a released module, in one loop that can stop anywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from reencoder_pipeline.cache import LatentCache, open_cache
from reencoder_pipeline.errors import CheckpointError, ConfigError
from reencoder_pipeline.interruptions import interruptions
from reencoder_pipeline.journal import LINE_EVERY_SECONDS, Journal
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.precision import resolved
from reencoder_pipeline.ranks import Ranks, joined_ranks
from reencoder_pipeline.run_folder import RunFolder, opened_run
from reencoder_pipeline.tasks import Task, get_task
from reencoder_trainer.alarms import Alarms
from reencoder_trainer.checkpoint import TrainingState, load_state, save_state
from reencoder_trainer.condition import ConditionEncoder
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.decoded_mel import load_decoded_mel
from reencoder_trainer.discriminator import MIN_FRAMES, LatentDiscriminator
from reencoder_trainer.latent_module import SIZES, LatentModule
from reencoder_trainer.normalisation import Normalisation
from reencoder_trainer.step import Estimator, Learner
from reencoder_trainer.stopwatch import Stopwatch
from reencoder_trainer.streaming_windows import open_windows
from reencoder_trainer.trained_module import LowBand, TrainedModule, save_module
from reencoder_trainer.validation import validate
from reencoder_trainer.windows import ReadAhead, Windows, share_of

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


class Run:
    """A training's place on the disk: what is saved, how it comes back, and what is released."""

    def __init__(self, folder: RunFolder, *, cache: LatentCache, learner: Learner, num_frames: int) -> None:
        self.folder, self.cache, self.learner, self.num_frames = folder, cache, learner, num_frames
        self.step = 0
        self.valid: dict[str, float] = {}
        self.pending: list[dict[str, float]] = []
        self.last_checkpoint = "none yet"
        self._saved_at = time.monotonic()

    def opening(self, loader: Windows, *, steps: int) -> str:
        if self.step >= steps:
            return f"nothing to do: {self.folder.path} is at step {self.step} already, and {steps} steps were asked for"
        left_out = f"; {loader.too_short} shorter ones left out" if loader.too_short else ""
        parameters = f"{self._trained().num_parameters:,} parameters"
        if self.learner.discriminator is not None:
            parameters += f" against {self.learner.discriminator.num_parameters:,}"
        return (
            f"{self.learner.task.name}: {parameters}, {loader.num_tracks} tracks with "
            f"{loader.num_windows:,} windows of {self.num_frames} frames{left_out}; steps {self.step} to {steps}"
        )

    def is_due(self) -> bool:
        config = self.learner.config
        if config.checkpoint_steps is not None and self.step % config.checkpoint_steps == 0:
            return True
        return time.monotonic() - self._saved_at >= 60 * config.checkpoint_minutes

    def save(self, journal: Journal) -> None:
        """The journal's rows, then the state, then the module: each is durable before what builds on it."""
        journal.sync()
        state = TrainingState(
            step=self.step,
            learner=self.learner.state(),
            pending=journal.pending,
            valid=self.valid,
            spec=self.cache.spec.to_dict(),
            cache=self.cache.digest,
        )
        save_state(state, self.folder.state, settings=self.learner.config.model_dump(mode="json"))
        self.release()
        self.last_checkpoint = f"{self.folder.state} at step {self.step}"
        self._saved_at = time.monotonic()

    def release(self) -> None:
        """Write the module file; the same state gives the same bytes."""
        save_module(self._trained(), self.folder.weights, weights=getattr(torch, self.learner.config.weights))

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
        try:
            self.learner.load_state(state.learner)
        except Exception as error:  # what is in a foreign state can raise anything
            raise CheckpointError(
                "the training state is of another recipe than this configuration's",
                where=path,
                remedy=f"restore the run's own {self.folder.config.name}, or start another run with another out",
            ) from error
        self.step, self.valid, self.pending = state.step, state.valid, state.pending
        self.last_checkpoint = f"{path} at step {self.step}"

    def _trained(self) -> TrainedModule:
        config, estimator = self.learner.config, self.learner.average
        training = {
            "steps": self.step,
            "seed": config.seed,
            "cache": self.cache.digest,
            "losses": config.losses.model_dump(),
            "precision": config.precision,
            "valid": self.valid,
        }
        return TrainedModule(
            estimator.module,
            self.learner.task,
            self.cache.spec,
            self.learner.normalisation,
            training,
            estimator.encoder,
            LowBand.of(self.cache.low_band),
            self.num_frames,
        )


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


def make_learner(
    config: TrainConfig, cache: LatentCache, task: Task, *, num_frames: int, ranks: Ranks, stopwatch: Stopwatch
) -> Learner:
    """Everything that is trained, its weights a function of the seed; the caller's random state is left alone."""
    shared = config.normalisation == "shared"
    statistics = cache.statistics_of(task)
    if statistics is None and ranks.is_first:
        print(
            f"note: the index of {cache.origin} is of an older version and does not tell the statistics of the tracks "
            f"for {task.name} apart: latents are normalised by those of the whole train split",
            file=sys.stderr,
        )
    normalisation = Normalisation.of_task(statistics or cache.statistics, task, shared=shared).to(ranks.device)
    channels = normalisation.inputs.num_channels, normalisation.targets.num_channels
    blocks, width = config.blocks or SIZES[config.size].blocks, config.width or SIZES[config.size].width
    condition, discriminator, encoder = config.condition, None, None
    if config.adversarial and num_frames < MIN_FRAMES:
        raise ConfigError(
            "the windows are too short for the discriminator",
            where="window_seconds",
            value=f"{config.window_seconds} s, {num_frames} frames",
            remedy=f"at least {MIN_FRAMES} frames, {float(MIN_FRAMES / cache.spec.frame_rate):.2f} s",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = LatentModule(
            *channels, blocks=blocks, width=width, output=config.output, condition_channels=condition.channels,
            response_frames=config.response_frames,
        )  # fmt: skip
        if condition.channels:
            encoder = ConditionEncoder(
                channels[1], condition.channels, blocks=condition.blocks, width=width, levels=condition.levels
            )
        if config.adversarial:
            discriminator = LatentDiscriminator(config.discriminator.channels)
            discriminator = discriminator.to(memory_format=torch.channels_last).to(ranks.device)
    mel = None
    if config.losses.mel:
        mel = load_decoded_mel(config.autoencoder, cache, normalisation.targets, device=ranks.device)
    return Learner(
        Estimator(module, encoder).to(ranks.device), discriminator, config=config, task=task,
        normalisation=normalisation, mel=mel, ranks=ranks, stopwatch=stopwatch,
    )  # fmt: skip
