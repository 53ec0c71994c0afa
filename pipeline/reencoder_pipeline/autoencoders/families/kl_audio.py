"""Loads two mono KL autoencoders of diffusers: KVAE-Audio (48 kHz, 50 Hz) and MiniMax-H3 audio (32 kHz, 40 Hz).

Neither is local: KVAE's encoder attends to the whole piece, MiniMax's to everything before a frame.
"""

from __future__ import annotations

from typing import Any

import torch

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.pretrained import choose_form, from_pretrained
from reencoder_pipeline.errors import AutoencoderError


def load_kvae_audio(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    model, digest = _load("AutoencoderKLKVAEAudio", source, form=form, device=device)
    config = model.config
    if config.num_channels != 1:
        value, remedy = f"{config.num_channels} channels", "use the published mono model"
        raise AutoencoderError("this KVAE-Audio is not mono", where=source.path, value=value, remedy=remedy)
    return _freeze(model, digest, source, sample_rate=config.sample_rate, channels=config.codebook_dim)


def load_minimax_h3_audio(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    """Its latents are normalised by the mean and standard deviation that its config holds for each channel."""
    model, digest = _load("AutoencoderKLMiniMaxH3Audio", source, form=form, device=device)
    config = model.config
    return _freeze(
        model,
        digest,
        source,
        sample_rate=config.sampling_rate,
        channels=config.latent_channels,
        mean=config.latents_mean,
        std=config.latents_std,
    )


def _load(name: str, source: Source, *, form: str | None, device: str) -> tuple[Any, str]:
    choose_form(form, (), where=source.name)
    return from_pretrained("diffusers", name, source.path, since="0.42.1", device=device)


def _freeze(
    model: Any,
    digest: str,
    source: Source,
    *,
    sample_rate: int,
    channels: int,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> FrozenAutoencoder:
    # (C,) -> (1, C, 1)
    centre = torch.tensor(mean or [0.0] * channels, device=model.device)[None, :, None]
    width = torch.tensor(std or [1.0] * channels, device=model.device)[None, :, None]
    return frozen(
        source,
        weights=digest,
        sample_rate=sample_rate,
        hop=model.hop_length,
        channels=channels,
        model=model,
        to_latents=lambda audio: (model.encode(audio).latent_dist.mode() - centre) / width,
        to_audio=lambda latents: model.decode(latents * width + centre).sample,
    )
