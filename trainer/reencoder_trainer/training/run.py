"""Run: what a training saves, how it comes back, and what it releases."""

from __future__ import annotations

import time

import torch

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.training.metrics_log import Journal
from reencoder_pipeline.training.run_folder import RunFolder
from reencoder_trainer.trained_module import LowBand, TrainedModule, save_module
from reencoder_trainer.training.learner import Learner
from reencoder_trainer.training_state import TrainingState, load_state, save_state
from reencoder_trainer.windows.mapped_windows import Windows


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
