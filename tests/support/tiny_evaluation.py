"""Modules and rows of evaluations that take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from reencoder_eval.evaluation_folder import (
    SCORES,
    read_rows,
)
from reencoder_eval.run_systems import Evaluation
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.trained_module import TrainedModule, save_module

RATE, CLIPS, LISTENING = 44_100, 4, 2
ROWS = ("autoencoder", "sinc", "autoencoder_low_band", "ours:S <1>")


def write_module(path: Path, spec: LatentSpec, *, task: str = "bwe", shift: float = 0.0) -> Path:
    """A module that starts at the identity, and adds `shift` to every latent."""
    channels = spec.channels, spec.channels * len(get_task(task).targets)
    module = LatentModule(*channels, blocks=1, width=16, output="residual")
    assert module.conv_out.bias is not None
    torch.nn.init.constant_(module.conv_out.bias, shift)
    inputs, targets = (Scaling(torch.zeros(count, 1), torch.ones(count, 1)) for count in channels)
    save_module(TrainedModule(module, get_task(task), spec, Normalisation(inputs, targets), {}), path)
    return path


Evaluate = Callable[..., Evaluation]


def scores_of(run: Path, system: str) -> list[dict[str, float]]:
    return [row["scores"] for row in read_rows(run / SCORES) if row["system"] == system]
