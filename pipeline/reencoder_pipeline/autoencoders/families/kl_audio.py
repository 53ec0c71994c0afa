"""Loads two mono KL autoencoders of diffusers: KVAE-Audio (48 kHz, 50 Hz) and MiniMax-H3 audio (32 kHz, 40 Hz).

Neither is local: KVAE's encoder attends to the whole piece, MiniMax's to everything before a frame.
"""

from __future__ import annotations

import torch

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.pretrained import from_pretrained
from reencoder_pipeline.errors import AutoencoderError


def load_kl_audio(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    """MiniMax's latents are normalised by the mean and standard deviation that its config holds for each channel."""
    model, digest = from_pretrained("diffusers", source.family, source.path, since="0.42.1", device=device)
    config, mean, std = model.config, None, None
    if source.family == "AutoencoderKLKVAEAudio":
        if config.num_channels != 1:
            value, remedy = f"{config.num_channels} channels", "use the published mono model"
            raise AutoencoderError("this KVAE-Audio is not mono", where=source.path, value=value, remedy=remedy)
        sample_rate, channels = config.sample_rate, config.codebook_dim
    else:
        sample_rate, channels = config.sampling_rate, config.latent_channels
        mean, std = config.latents_mean, config.latents_std
    # (C,) -> (1, C, 1)
    centre = torch.tensor(mean or [0.0] * channels, device=model.device)[None, :, None]
    width = torch.tensor(std or [1.0] * channels, device=model.device)[None, :, None]
    return frozen(
        source,
        form,
        weights=digest,
        sample_rate=sample_rate,
        hop=model.hop_length,
        channels=channels,
        model=model,
        to_latents=lambda audio: (model.encode(audio).latent_dist.mode() - centre) / width,
        to_audio=lambda latents: model.decode(latents * width + centre).sample,
    )
