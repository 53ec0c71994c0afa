"""Makes everything that is trained from a configuration: module, encoder, discriminator."""

from __future__ import annotations

import sys

import torch

from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.tasks import Task
from reencoder_pipeline.training.ranks import Ranks
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.discriminator import MIN_FRAMES, LatentDiscriminator
from reencoder_trainer.module.latent_module import SIZES, LatentModule
from reencoder_trainer.module.normalisation import Normalisation
from reencoder_trainer.training.decoded_mel import load_decoded_mel
from reencoder_trainer.training.learner import Estimator, Learner
from reencoder_trainer.training.stopwatch import Stopwatch


def make_learner(
    config: TrainConfig, cache: LatentCache, task: Task, *, num_frames: int, ranks: Ranks, stopwatch: Stopwatch
) -> Learner:
    """Everything that is trained, its weights a function of the seed; the caller's random state is left alone."""
    shared = config.normalisation == "shared"
    statistics = cache.statistics_of(task)
    if statistics is None and ranks.is_first:
        print(
            f"note: the index of {cache.origin} is of an older version and does not tell the statistics of the tracks "
            f"for {task.name} apart: latents are normalised by those of the whole train split",
            file=sys.stderr,
        )
    normalisation = Normalisation.of_task(statistics or cache.statistics, task, shared=shared).to(ranks.device)
    channels = normalisation.inputs.num_channels, normalisation.targets.num_channels
    blocks, width = config.blocks or SIZES[config.size].blocks, config.width or SIZES[config.size].width
    condition, discriminator, encoder = config.condition, None, None
    if config.adversarial and num_frames < MIN_FRAMES:
        raise ConfigError(
            "the windows are too short for the discriminator",
            where="window_seconds",
            value=f"{config.window_seconds} s, {num_frames} frames",
            remedy=f"at least {MIN_FRAMES} frames, {float(MIN_FRAMES / cache.spec.frame_rate):.2f} s",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = LatentModule(
            *channels, blocks=blocks, width=width, output=config.output, condition_channels=condition.channels,
            response_frames=config.response_frames,
        )  # fmt: skip
        if condition.channels:
            encoder = ConditionEncoder(
                channels[1], condition.channels, blocks=condition.blocks, width=width, levels=condition.levels
            )
        if config.adversarial:
            discriminator = LatentDiscriminator(config.discriminator.channels)
            discriminator = discriminator.to(memory_format=torch.channels_last).to(ranks.device)
    mel = None
    if config.losses.mel:
        mel = load_decoded_mel(config.autoencoder, cache, normalisation.targets, device=ranks.device)
    return Learner(
        Estimator(module, encoder).to(ranks.device), discriminator, config=config, task=task,
        normalisation=normalisation, mel=mel, ranks=ranks, stopwatch=stopwatch,
    )  # fmt: skip
