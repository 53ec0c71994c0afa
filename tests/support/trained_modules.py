"""Trained modules as small as can be, made without a training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.trained_module import TrainedModule

SPEC = LatentSpec("tiny", "abc", sample_rate=44100, hop=1024, channels=4)
PLAIN, CONDITIONED = 0, 3  # channels of the condition


def make_trained(condition: int = PLAIN, *, task: str = "m2s", **module: object) -> TrainedModule:
    """The same one at every call; a conditioned one listens to its condition."""
    torch.manual_seed(0)
    out_channels = 4 * len(get_task(task).targets)
    latent_module = LatentModule(4, out_channels, blocks=1, width=8, condition_channels=condition, **module)  # type: ignore[arg-type]
    encoder = ConditionEncoder(out_channels, condition, blocks=2, width=8) if condition else None
    for part in (latent_module, encoder):
        for parameter in part.parameters() if part else ():
            nn.init.normal_(parameter, std=0.3)
    return TrainedModule(
        latent_module,
        get_task(task),
        SPEC,
        Normalisation(
            Scaling(torch.randn(4, 1), torch.rand(4, 1) + 0.5),
            Scaling(torch.randn(out_channels, 1), torch.rand(out_channels, 1) + 0.5),
        ),
        {"steps": 7, "seed": 0, "cache": "d1", "valid": {"l1": 0.5}},
        encoder,
    )


def latents(channels: int = 4) -> Tensor:
    """Raw, of a batch of 2."""
    return torch.randn(2, channels, 11, generator=torch.Generator().manual_seed(1)) * 5 + 2
