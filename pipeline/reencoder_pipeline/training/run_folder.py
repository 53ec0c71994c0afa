"""The folder of one run: which files it holds, and whether a command may go on in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from reencoder_pipeline.config import load_config
from reencoder_pipeline.errors import CheckpointError, ConfigError
from reencoder_pipeline.stores.atomic import FULL_DISK, scratch_owner, write_text
from reencoder_pipeline.stores.own_folder import folder_lock, require_own_folder
from reencoder_pipeline.stores.settings_file import changes


@dataclass(frozen=True)
class RunFolder:
    """`released` is the name of the weights file that the training is for; its stem says the kind of training."""

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

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def kind(self) -> str:
        return Path(self.released).stem


@contextmanager
def opened_run(folder: RunFolder, config: BaseModel, *, may_change: Set[str], resume: bool) -> Iterator[None]:
    """Hold `folder` as that of a run with the settings of `config`, which config.yaml there then holds.

    ConfigError if the folder holds other files, if another training works there, if a run is there and `resume` is
    false, or if the settings of that run differ in more than `may_change` (what moves, prolongs or watches a training).
    The settings are those of config.yaml and those in the training state: both must agree. A setting that is younger
    than the run has its default there. Resuming where nothing is yet is starting, so the same command works before and
    after any interruption. Where the disk is full, the error names the folder if it names no file.
    """
    require_run_folder(folder, type(config))
    settings = config.model_dump(mode="json")
    with folder_lock(folder.path, what="a training"):
        if folder.config.exists() or folder.state.exists():
            if not resume:
                raise ConfigError(
                    "a run is there already", where=folder.path, remedy="add --resume, or give another out"
                )
            _require_same_settings(folder, config, settings, may_change=may_change)
        write_text(folder.config, yaml.safe_dump(settings, sort_keys=False))
        try:
            yield
        except OSError as error:
            if error.errno in FULL_DISK and error.filename is None:  # a write that fails names no file
                error.filename = str(folder.path)
            raise


def require_run_folder(folder: RunFolder, settings: type[BaseModel]) -> None:
    """ConfigError unless the folder is absent, empty, or that of a run of ours: its config.yaml holds what every
    configuration of the kind `settings` must say, or a training state of ours is there."""
    from reencoder_pipeline.training.state_file import is_state

    if not is_state(folder.state):
        required = [name for name, field in settings.model_fields.items() if field.is_required()]
        require_own_folder(folder.path, marks={folder.config.name: required})


def remove_run(folder: RunFolder, settings: type[BaseModel]) -> None:
    """Remove a run, file by file: what a training writes, and nothing else. ConfigError where none of ours is."""
    if not folder.path.exists():
        return
    require_run_folder(folder, settings)
    with folder_lock(folder.path, what="a training"):
        for file in (folder.state, folder.weights, folder.metrics):
            file.unlink(missing_ok=True)
        if folder.tensorboard.is_dir() and not folder.tensorboard.is_symlink():
            for file in folder.tensorboard.glob("events.out.tfevents.*"):
                file.unlink()
            with suppress(OSError):  # other files are there
                folder.tensorboard.rmdir()
        for file in folder.path.iterdir():
            if file.is_file() and scratch_owner(file.name) is not None:
                file.unlink()
        folder.config.unlink(missing_ok=True)  # last: it proves what the folder is


def _require_same_settings(
    folder: RunFolder, config: BaseModel, settings: Mapping[str, Any], *, may_change: Set[str]
) -> None:
    has_config = folder.config.exists()
    if has_config:
        before = load_config(folder.config, type(config)).model_dump(mode="json")
        _require_same(before, settings, may_change=may_change, where=folder.config, remedy="restore them")
    if not folder.state.exists():
        return
    from reencoder_pipeline.training.state_file import read_state

    found = read_state(folder.state, kind=folder.kind)["settings"]
    try:
        before = type(config).model_validate(found).model_dump(mode="json")
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        raise CheckpointError(
            "the training state holds settings that this version does not know",
            where=folder.state,
            value=f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"[:300],
            remedy="use the version of this program that wrote it, or start another run with another out",
        ) from None
    remedy = "restore them" if has_config else f"restore them, or the run's {folder.config.name}, which is gone"
    _require_same(before, settings, may_change=may_change, where=folder.state, remedy=remedy)


def _require_same(
    before: Mapping[str, Any], now: Mapping[str, Any], *, may_change: Set[str], where: Path, remedy: str
) -> None:
    if differing := changes(before, now, may_change=may_change):
        raise ConfigError(
            "these settings cannot change when a run is resumed",
            where=where,
            value=differing,
            remedy=f"{remedy}, or start another run with another out",
        )
