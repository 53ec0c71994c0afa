"""The folder of one run: which files it holds, and whether a command may go on in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reencoder_pipeline.config import read_yaml
from reencoder_pipeline.errors import ConfigError
from reencoder_trainer.checkpoint import write_whole

MAY_CHANGE = frozenset(
    {
        "steps", "cache", "out", "device", "threads", "valid_every", "valid_windows",
        "checkpoint_steps", "checkpoint_minutes", "log_every", "tensorboard",
    }
)  # fmt: skip
"""Settings that a resumed run may change: they move, prolong or watch a training, but do not make it another one.
(A cache may move; that it is the same cache is checked by its digest.)"""


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def module(self) -> Path:
        return self.path / "module.safetensors"

    @property
    def state(self) -> Path:
        return self.path / "state.pt"


def open_run(path: Path, settings: Mapping[str, Any], *, resume: bool) -> RunFolder:
    """Make `path` the folder of a run with `settings`, which config.yaml there then holds.

    ConfigError if a run is there and `resume` was not asked for, or if it is and its settings differ in a way that
    matters. Resuming where nothing is yet is starting: the same command works before and after any interruption.
    """
    folder = RunFolder(path)
    if folder.config.exists() or folder.state.exists():
        if not resume:
            raise ConfigError("a run is there already", where=path, remedy="add --resume, or give another out")
        if folder.config.exists():
            _require_same(read_yaml(folder.config), settings, where=folder.config)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "the run folder cannot be made", where="out", value=error, remedy="give another out"
        ) from None
    write_whole(folder.config, yaml.safe_dump(dict(settings), sort_keys=False).encode())
    return folder


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], *, where: Path) -> None:
    differing = [
        f"{name}: {before.get(name)!r} in the run, {now.get(name)!r} now"
        for name in sorted({*before, *now} - MAY_CHANGE)
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise ConfigError(
            "these settings cannot change when a run is resumed",
            where=where,
            value="; ".join(differing),
            remedy="restore them, or start another run with another out",
        )
