"""MusicHiFi with its discriminator, losses and settings, for the trainer of baselines."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from reencoder_eval.baselines.adversarial import AdversarialTraining
from reencoder_eval.baselines.musichifi.checkpoint import save_musichifi
from reencoder_eval.baselines.musichifi.discriminators import Discriminator
from reencoder_eval.baselines.musichifi.generator import GeneratorSizes
from reencoder_eval.baselines.musichifi.losses import generator_loss, squared_loss_of_discriminator
from reencoder_eval.baselines.musichifi.model import SAMPLE_RATE, MusicHiFi, MusicHiFiTask
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.errors import TrainingError

MARGIN = 1024  # samples reflected at both ends of an excerpt, because the resampler's filter reaches past its edges


def musichifi_training(
    task: MusicHiFiTask, *, channels: int = 1536, filters: int = 32, seed: int = 0
) -> AdversarialTraining:
    """The published recipe.

    `channels` of the generator and `filters` of the discriminator default to the published numbers. The paper trains on
    500,000 batches of 45 excerpts of 16,384 samples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MusicHiFi(task, GeneratorSizes(channels=channels))
        discriminator = Discriminator(filters=filters)
    for part in model.modules():
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(part)
    return AdversarialTraining(
        generator=model,
        discriminator=discriminator,
        prepare=low_band_and_mono if task == "bwe" else mid_and_side,
        generator_loss=generator_loss,
        discriminator_loss=squared_loss_of_discriminator,
        save=lambda path, said: save_musichifi(path, model, training=said),
        learning_rate=1e-4,
        betas=(0.8, 0.99),
        decay=0.999996,
        weight_decay=0.01,
    )


def low_band_and_mono(audio: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1 or 2, n) -> low band and mono, (B, 1, n) each, with the resampler of an evaluation's clips."""
    mono = audio.mean(dim=1)
    continued = np.pad(mono.cpu().numpy(), ((0, 0), (MARGIN, MARGIN)), mode="reflect")
    low = low_band(continued, sample_rate=SAMPLE_RATE)[:, MARGIN:-MARGIN]
    return torch.from_numpy(low).to(audio.device)[:, None], mono[:, None]


def mid_and_side(audio: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2, n) -> (L + R) / 2 and (L - R) / 2, (B, 1, n) each."""
    if audio.shape[1] != 2:
        value, remedy = f"{audio.shape[1]} channel", "give stereo recordings"
        raise TrainingError("training of upmixing needs stereo", value=value, remedy=remedy)
    left, right = audio.split(1, dim=1)
    return (left + right) / 2, (left - right) / 2
