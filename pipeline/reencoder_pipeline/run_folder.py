"""The folder of one run: which files it holds, and whether a command may go on in it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from reencoder_pipeline.config import load_config
from reencoder_pipeline.durable import write_text
from reencoder_pipeline.errors import ConfigError


@dataclass(frozen=True)
class RunFolder:
    """`released` is the name of the weights file that the training is for."""

    path: Path
    released: str

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def weights(self) -> Path:
        return self.path / self.released

    @property
    def state(self) -> Path:
        return self.path / "state.pt"


def open_run(folder: RunFolder, config: BaseModel, *, may_change: Set[str], resume: bool) -> None:
    """Make `folder` that of a run with the settings of `config`, which config.yaml there then holds.

    ConfigError if a run is there and `resume` was not asked for, or if it is and its settings differ in any but those
    of `may_change`, which move, prolong or watch a training. A setting that is younger than the run has its default
    there. Resuming where nothing is yet is starting: the same command works before and after any interruption.
    """
    settings = config.model_dump(mode="json")
    path = folder.path
    if folder.config.exists() or folder.state.exists():
        if not resume:
            raise ConfigError("a run is there already", where=path, remedy="add --resume, or give another out")
        if folder.config.exists():
            before = load_config(folder.config, type(config)).model_dump(mode="json")
            _require_same(before, settings, may_change=may_change, where=folder.config)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "the run folder cannot be made", where="out", value=error, remedy="give another out"
        ) from None
    write_text(folder.config, yaml.safe_dump(settings, sort_keys=False))


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], *, may_change: Set[str], where: Path) -> None:
    differing = [
        f"{name}: {before[name]!r} in the run, {now[name]!r} now"
        for name in sorted(now.keys() - may_change)
        if before[name] != now[name]
    ]
    if differing:
        raise ConfigError(
            "these settings cannot change when a run is resumed",
            where=where,
            value="; ".join(differing),
            remedy="restore them, or start another run with another out",
        )
