"""The paper's size: parameters and GFLOPs of the presets (section 3.1.1: 230 M, 51 GFLOPs), without any memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.config import load_config

CONFIGS = Path(__file__).parents[3] / "configs" / "autoencoder"
FRAMES = 64


@pytest.mark.parametrize("preset", ["paper_b", "paper_c"])
def test_a_preset_has_the_papers_size(preset: str) -> None:
    config = load_config(CONFIGS / f"{preset}.yaml", AutoencoderTrainConfig)
    shape = config.model
    with torch.device("meta"):
        model = Vocos(shape)
    assert 229e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 232e6
    assert 50.5e9 <= flops(model, frames=FRAMES) * 44_100 / (1024 * FRAMES) <= 51.0e9
    assert (shape.hop, shape.latent_channels, shape.sample_rate) == (1024, 64, 44_100)


def test_the_house_autoencoder_costs_what_its_config_says() -> None:
    """The same count on a model of known cost: 2 GFLOPs, a twenty-fifth of the paper's."""
    shape = load_config(CONFIGS / "house.yaml", AutoencoderTrainConfig).model
    with torch.device("meta"):
        model = Vocos(shape)
    assert flops(model, frames=FRAMES) * 44_100 / (1024 * FRAMES) == pytest.approx(2.1e9, rel=0.02)


def flops(model: Vocos, *, frames: int) -> float:
    """FLOPs of encoding and decoding `frames`: all convolutions and matrix products, on the meta device.

    The spectral ends are left out: they are FFTs, which no counter counts.
    """
    shape = model.config
    fine_frames, bins = frames * shape.stride, shape.n_fft // 2 + 1
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        hidden = model.encoder.down(model.encoder.fine(torch.empty(1, 3 * bins, fine_frames)))
        model.encoder.posterior(model.encoder.coarse(hidden))
        hidden = model.decoder.up(model.decoder.coarse(torch.empty(1, shape.latent_channels, frames)))
        hidden = torch.cat([hidden, torch.empty(1, 3 * shape.lapped_bins, fine_frames)], dim=1)
        model.decoder.head(model.decoder.fine(hidden))
    # The straight paths, there and back: a matrix product a frame each.
    lapped = 2 * shape.hop if shape.lapped else 0
    envelope = bins * shape.stride if shape.envelope else 0
    return counter.get_total_flops() + 2 * 2 * shape.latent_channels * frames * (lapped + envelope)
