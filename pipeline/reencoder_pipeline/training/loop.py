"""The loop that every training here runs in: steps, logging, validation, checkpoints, interruption and resuming."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from reencoder_pipeline.errors import CheckpointError, ReencoderError
from reencoder_pipeline.progress import ProgressLine
from reencoder_pipeline.training.metrics_log import MetricsLog
from reencoder_pipeline.training.ranks import Ranks
from reencoder_pipeline.training.run_folder import RunFolder
from reencoder_pipeline.training.state_file import read_state, write_state


class Training(Protocol):
    """What one training does at each point of the loop. A class that derives from this says only what differs.

    `command` is the command line up to the configuration's path; `headline` names the metric of the progress line.
    """

    command: str
    headline: str = "loss"

    def opening(self) -> str:
        """One line that says what is trained on what; empty for none."""
        return ""

    def update(self, step: int, *, where: str) -> dict[str, float]:
        """Read batch `step` (from 0) and learn from it; returns metrics. A TrainingError is raised at `where`."""
        ...

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """The warnings after an update with these metrics."""
        return None

    def timings(self) -> Mapping[str, float]:
        """Shares of the time since the last call, for a row of metrics."""
        return {}

    def validate(self, step: int, log: MetricsLog) -> None:
        """Validate after `step` updates and write a row."""
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state` goes on."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. It may raise anything for the state of another recipe."""
        ...

    def release(self, step: int) -> None:
        """Write the weights file of `step` updates. The state is on the disk then, and gives the same bytes again."""
        ...


@dataclass(frozen=True)
class RunSettings:
    """How long a run goes on, and how often it logs, validates (0: never) and saves. `recipe`: all its settings."""

    steps: int
    log_every: int
    valid_every: int
    checkpoint_minutes: float
    tensorboard: bool
    recipe: Mapping[str, Any]
    checkpoint_steps: int | None = None

    @classmethod
    def of(cls, config: BaseModel) -> RunSettings:
        """Take the settings from a configuration with keys of these names."""
        recipe = config.model_dump(mode="json")
        return cls(recipe=recipe, **{name: recipe[name] for name in cls.__dataclass_fields__ if name in recipe})


class Run:
    """A training in its folder. `step` counts the updates that were made."""

    def __init__(self, training: Training, folder: RunFolder, settings: RunSettings, *, ranks: Ranks) -> None:
        self.training, self.folder, self.settings, self.ranks = training, folder, settings, ranks
        self.step = 0
        self._pending: list[dict[str, float]] = []
        self._last_checkpoint = "none yet"
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Go on from the folder's training state; stay at step 0 if a kill came before the first."""
        path = self.folder.state
        if not path.exists():
            return
        state = read_state(path, kind=self.folder.kind)
        try:
            self.training.load_state(state)
            self.step, self._pending = int(state["step"]), list(state.get("pending", []))
        except ReencoderError:
            raise
        except Exception as error:  # what is in a foreign state can raise anything
            raise CheckpointError(
                "the training state is of another recipe than this configuration's",
                where=path,
                value=str(error)[:300],
                remedy=f"restore the run's own {self.folder.config.name}, or start another run with another out",
            ) from error
        self._last_checkpoint = f"{path} at step {self.step}"
        if self.ranks.is_first:
            self.training.release(self.step)  # a kill may have come between the two files of the checkpoint

    def to_the_end(self, interrupted: Callable[[], bool]) -> None:
        """Update until `steps` are made. Once `interrupted`, save and leave with a KeyboardInterrupt that says the
        command which resumes. The first rank logs, validates and saves; all ranks stop after the same step."""
        settings, training = self.settings, self.training
        with ExitStack() as held:
            log = progress = None
            if self.ranks.is_first:
                progress = held.enter_context(ProgressLine("training", unit="steps", first=self.step))
                log = held.enter_context(
                    MetricsLog(
                        self.folder.path, step=self.step, log_every=settings.log_every, pending=self._pending,
                        tensorboard=settings.tensorboard, timings=training.timings, say=progress.say,
                    )
                )  # fmt: skip
                progress.say(self._opening())
            while self.step < settings.steps:
                where = f"step {self.step + 1}, last good checkpoint {self._last_checkpoint}"
                metrics = training.update(self.step, where=where)
                self.step += 1
                stop = self.ranks.any(interrupted()) and self.step < settings.steps
                if log is not None and progress is not None:
                    headline = f"{training.headline} {metrics[training.headline]:.4f}"
                    progress(self.step, settings.steps, note=headline)
                    self._after_step(metrics, log, stop=stop)
                if stop:
                    message = f"stopped at step {self.step}; to go on: {training.command} {self.folder.config} --resume"
                    raise KeyboardInterrupt(message if self.ranks.is_first else "")

    def _after_step(self, metrics: dict[str, float], log: MetricsLog, *, stop: bool) -> None:
        settings, finished = self.settings, self.step == self.settings.steps
        log.train(self.step, metrics)
        log.warn(self.step, self.training.warning(metrics))
        if settings.valid_every and (finished or self.step % settings.valid_every == 0):
            self.training.validate(self.step, log)
        due = settings.checkpoint_steps is not None and self.step % settings.checkpoint_steps == 0
        due = due or time.monotonic() - self._saved_at >= 60 * settings.checkpoint_minutes
        if finished or stop or due:
            self._save(log)

    def _save(self, log: MetricsLog) -> None:
        """The rows, then the state, then the weights: each is durable before what builds on it."""
        log.sync()
        state = {"step": self.step, "pending": log.pending, **self.training.state()}
        write_state(self.folder.state, state, kind=self.folder.kind, settings=self.settings.recipe)
        self.training.release(self.step)
        self._last_checkpoint = f"{self.folder.state} at step {self.step}"
        self._saved_at = time.monotonic()

    def _opening(self) -> str:
        steps = self.settings.steps
        if self.step >= steps:
            return f"nothing to do: {self.folder.path} is at step {self.step} already, and `steps` is {steps}"
        return "; ".join(filter(None, [self.training.opening(), f"steps {self.step} to {steps}"]))
