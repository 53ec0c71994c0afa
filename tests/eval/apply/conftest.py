"""A folder with a tiny autoencoder and modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from applied import Place, random_module
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.trained_module import TrainedModule, save_module


@pytest.fixture(scope="module")
def modules(tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    spec, folder = load_autoencoder(str(tiny_autoencoder)).spec, tmp_path_factory.mktemp("modules")
    plain = random_module(spec, task="m2s", response_frames=1)
    torch.manual_seed(1)
    module = LatentModule(spec.channels, 2 * spec.channels, blocks=1, width=12, condition_channels=3)
    encoder = ConditionEncoder(2 * spec.channels, 3, blocks=1, width=12)
    for parameter in [*module.parameters(), *encoder.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    made = {
        "bwe": random_module(spec, response_frames=1),
        "plain_m2s": plain,
        "m2s": TrainedModule(module.eval(), plain.task, spec, plain.normalisation, {"steps": 1}, encoder.eval()),
    }
    for name, trained in made.items():
        save_module(trained, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in made}


@pytest.fixture
def place(tmp_path: Path, tiny_autoencoder: Path, modules: dict[str, Path]) -> Place:
    return Place(tmp_path, tiny_autoencoder, **modules)
