"""The training of a latent module, as the common loop runs it: batches, validation, state and the released module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.training.loop import Training
from reencoder_pipeline.training.metrics_log import MetricsLog
from reencoder_pipeline.training.run_folder import RunFolder
from reencoder_trainer.trained_module import LowBand, TrainedModule, save_module
from reencoder_trainer.training.alarms import Alarms
from reencoder_trainer.training.learner import Learner
from reencoder_trainer.training.validation import validate
from reencoder_trainer.windows.pooled_windows import Windows
from reencoder_trainer.windows.read_ahead import ReadAhead


class ModuleTraining(Training):
    """`windows` and `unseen` are those of the train and valid splits, `batches` the former read ahead."""

    command, headline = "reencoder-train", "l1"

    def __init__(
        self,
        folder: RunFolder,
        *,
        cache: LatentCache,
        learner: Learner,
        windows: Windows,
        batches: ReadAhead,
        unseen: Windows | None,
    ) -> None:
        self.folder, self.cache, self.learner = folder, cache, learner
        self.windows, self.batches, self.unseen = windows, batches, unseen
        self.valid: dict[str, float] = {}
        self._alarms = Alarms(warmup_steps=learner.config.warmup_steps)
        self.timings = learner.stopwatch.shares

    def opening(self) -> str:
        learner, windows = self.learner, self.windows
        parameters = f"{self._trained(0).num_parameters:,} parameters"
        if learner.discriminator is not None:
            parameters += f" against {learner.discriminator.num_parameters:,}"
        left_out = f"; {windows.too_short} shorter ones left out" if windows.too_short else ""
        return (
            f"{learner.task.name}: {parameters}, {windows.num_tracks} tracks with "
            f"{windows.num_windows:,} windows of {windows.num_frames} frames{left_out}"
        )

    def update(self, step: int, *, where: str) -> dict[str, float]:
        with self.learner.stopwatch.phase("data"):
            batch = self.batches.batch(step)
        return self.learner.update(batch, step, where=where)

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        return self._alarms.update(metrics)

    def validate(self, step: int, log: MetricsLog) -> None:
        if self.unseen is not None:
            self.valid = validate(self.learner, self.unseen, num_windows=self.learner.config.valid_windows)
            log.valid(step, self.valid)
            log.warn(step, self._alarms.valid(step, self.valid))

    def state(self) -> dict[str, Any]:
        spec, cache = self.cache.spec.to_dict(), self.cache.digest
        return {"learner": self.learner.state(), "valid": self.valid, "spec": spec, "cache": cache}

    def load_state(self, state: Mapping[str, Any]) -> None:
        path = self.folder.state
        remedy = "train on the cache that the run began with, or start another run with another out"
        LatentSpec.from_dict(state["spec"], where=path).require_same(self.cache.spec, where=path, remedy=remedy)
        if state["cache"] != self.cache.digest:
            raise CheckpointError("the run began with another cache", where=path, value=self.cache.path, remedy=remedy)
        self.learner.load_state(state["learner"])
        self.valid = state["valid"]

    def release(self, step: int) -> None:
        """Write the module file; the same state gives the same bytes."""
        save_module(self._trained(step), self.folder.weights, weights=getattr(torch, self.learner.config.weights))

    def _trained(self, step: int) -> TrainedModule:
        config, estimator = self.learner.config, self.learner.average
        training = {
            "steps": step,
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
            self.windows.num_frames,
        )
