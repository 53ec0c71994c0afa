"""Lists the training runs in a folder: each run's recipe, progress and last validation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from reencoder_pipeline.config import load_config, read_yaml
from reencoder_pipeline.errors import ConfigError, ReencoderError
from reencoder_pipeline.training.metrics_log import read_rows
from reencoder_trainer.config import TrainConfig


@dataclass(frozen=True)
class RunSummary:
    """One run. `seconds` is the time since a file of the run last changed; `valid` and `warnings` may be empty."""

    name: str
    recipe: str
    step: int
    steps: int
    valid: dict[str, float]
    warnings: tuple[str, ...]
    steps_per_second: float | None
    seconds: float

    @property
    def is_finished(self) -> bool:
        return self.step >= self.steps


def list_runs(folder: Path) -> tuple[list[RunSummary], list[str]]:
    """The runs of `reencoder-train` anywhere below `folder`, latest first, and one line for each unreadable run.

    Runs of other trainings are skipped. ConfigError if `folder` does not exist.
    """
    if not folder.is_dir():
        raise ConfigError("the folder of runs does not exist", where=folder, remedy="give the folder above the runs")
    found: list[RunSummary] = []
    unreadable: list[str] = []
    for metrics in folder.rglob("metrics.jsonl"):
        config = metrics.parent / "config.yaml"
        if not config.is_file():
            continue
        try:
            if "cache" not in read_yaml(config):
                continue
            found.append(_summary(metrics.parent, folder))
        except (ReencoderError, ValueError, KeyError, TypeError) as error:
            unreadable.append(f"{metrics.parent}: {str(error).splitlines()[0]}")
    return sorted(found, key=lambda run: run.seconds), unreadable


def recipe(config: TrainConfig) -> str:
    """A run's settings in a few words, such as "bwe S, L1 + discriminator, residual"."""
    losses, parts = config.losses, ["L1"]
    parts += ["level"] * (losses.level > 0) + ["mel"] * (losses.mel > 0) + ["discriminator"] * config.adversarial
    parts += ["condition"] * (config.condition.channels > 0)
    size = config.size if config.blocks is None and config.width is None else f"{config.blocks} x {config.width}"
    switches = [config.output] * (config.output != "direct") + ["ema"] * (config.ema > 0)
    switches += [config.schedule] * (config.schedule != "constant")
    switches += [f"GRN {config.response_frames}"] * (config.response_frames is not None)
    return ", ".join([f"{config.task} {size}", " + ".join(parts), *switches])


def _summary(run: Path, folder: Path) -> RunSummary:
    config = load_config(run / "config.yaml", TrainConfig)
    rows, damaged = read_rows(run / "metrics.jsonl")
    valid = next((row for row in reversed(rows) if row["kind"] == "valid"), {})
    last = next((row for row in reversed(rows) if row["kind"] == "train"), {})
    changed = max(file.stat().st_mtime for file in run.iterdir() if file.is_file())
    return RunSummary(
        name=run.relative_to(folder).as_posix() if run != folder else run.name,
        recipe=recipe(config),
        step=max((row["step"] for row in rows), default=0),
        steps=config.steps,
        valid={
            name: value for name, value in valid.items() if (name == "kl" or name.startswith("l1")) and _real(value)
        },
        warnings=tuple(str(row.get("text")) for row in rows if row["kind"] == "warning") + _said(damaged),
        steps_per_second=rate if _real(rate := last.get("steps_per_second")) else None,
        seconds=max(0.0, time.time() - changed),
    )


def _said(damaged: int) -> tuple[str, ...]:
    return (f"damaged lines in metrics.jsonl: {damaged}",) if damaged else ()


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
