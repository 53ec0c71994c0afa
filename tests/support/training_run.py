"""Trainings that are as small as can be: one recipe per loss, how tests run them, and what makes two runs the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

import reencoder_trainer.training.train as train_module
from command_line import search_path
from reencoder_pipeline.training.metrics_log import TIMING_FIELDS
from reencoder_pipeline.training.state_file import read_state
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.training.learner import Learner
from reencoder_trainer.training.train import TrainedRun, train
from reencoder_trainer.windows.mapped_windows import WindowLoader
from tiny_cache import SPEC

TINY: dict[str, Any] = {
    "blocks": 1, "width": 16, "batch_size": 4, "window_seconds": 0.7, "steps": 20, "warmup_steps": 4, "lr": 0.01,
    "valid_every": 5, "valid_windows": 8, "log_every": 4, "tensorboard": False, "device": "cpu", "threads": 1,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "l1": {},
    "adversarial": {
        "losses": {"adversarial": 0.5, "feature_matching": 1.0},
        "discriminator": {"channels": 4, "lr": 1e-3, "warmup_steps": 4},
        "ema": 0.9,
    },
    "variational": {
        "task": "m2s",
        "condition": {"channels": 3, "blocks": 1},
        "losses": {"kl": 5e-4},
        "swap_left_right": True,
    },
    "mel": {"losses": {"mel": 1.0}, "autoencoder": "training_run:load_linear", "batch_size": 2},
}
ROOT = Path(__file__).parents[2]


class LinearAutoencoder:
    """Only what training uses: each frame becomes a hop of audio through one fixed matrix."""

    spec, context, local, licence = SPEC, 0, True, "none"

    def __init__(self) -> None:
        self._basis = torch.randn(SPEC.channels, SPEC.hop, generator=torch.Generator().manual_seed(0)) * 0.05

    def encode(self, audio: Tensor) -> Tensor:
        raise NotImplementedError("training decodes only")

    def decode(self, latents: Tensor) -> Tensor:
        return torch.einsum("bct,ch->bth", latents, self._basis).flatten(1)[:, None]  # (B, C, T) -> (B, 1, T * hop)


def load_linear(device: str) -> LinearAutoencoder:
    assert device == "cpu"
    return LinearAutoencoder()


def run(cache: Path, out: Path, *, resume: bool = False, **changes: Any) -> TrainedRun:
    return train(TrainConfig(cache=cache, out=out, **{**TINY, **changes}), resume=resume)


def rows(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The metrics but for what depends on the clock; of all kinds of rows, or of one."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in TIMING_FIELDS}
        for line in lines
        if kind in (None, line["kind"])
    ]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: module, optimisers, metrics. Warnings are a process's own: a resumed run may say one again."""
    assert (a / "module.safetensors").read_bytes() == (b / "module.safetensors").read_bytes()
    states = [load_state(folder / "state.pt") for folder in (a, b)]
    assert identical(*map(vars, states))
    metrics = [[row for row in rows(folder) if row["kind"] != "warning"] for folder in (a, b)]
    assert metrics[0] == metrics[1]


def load_state(path: Path) -> SimpleNamespace:
    """What a training state says of the training."""
    values = read_state(path, kind="module")
    return SimpleNamespace(**{name: values[name] for name in ("step", "learner", "pending", "valid", "spec", "cache")})


def identical(a: Any, b: Any) -> bool:
    """Whether nested values are equal, every tensor of them to the bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[dict[str, Tensor]], Any]) -> None:
    """Do something with the training batch of update `step` (from 1), once its windows are read."""
    original = WindowLoader.batch

    def batch(self: WindowLoader, index: int, **slicing: Any) -> dict[str, Tensor]:
        windows = original(self, index, **slicing)
        if index == step - 1 and self.split == "train":
            act(windows)
        return windows

    monkeypatch.setattr(WindowLoader, "batch", batch)


def crash(_: object = None) -> NoReturn:
    raise RuntimeError("the power is gone")


def caught_learners(monkeypatch: pytest.MonkeyPatch) -> list[Learner]:
    """The learners of the runs that follow, in the list that is returned."""
    caught: list[Learner] = []
    original = train_module.make_learner

    def make(*arguments: Any, **named: Any) -> Learner:
        caught.append(original(*arguments, **named))
        return caught[-1]

    monkeypatch.setattr(train_module, "make_learner", make)
    return caught


def tensors_in(value: Any) -> Iterable[Tensor]:
    """Every tensor in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def write_config(path: Path, cache: Path, out: Path, **changes: Any) -> Path:
    """The settings of `run` as a file, for runs in processes of their own."""
    config = TrainConfig(cache=cache, out=out, **{**TINY, **changes})
    path.write_text(json.dumps(config.model_dump(mode="json")))
    return path


def environment() -> dict[str, str]:
    """For processes of their own: they find this module, and leave the cores to each other."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search_path()}
