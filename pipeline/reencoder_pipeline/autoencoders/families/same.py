"""Loads SAME (diffusers) of Stable Audio 3: stereo in one latent, banded attention, 10.8 frames a second."""

from __future__ import annotations

import math
from typing import Any

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.pretrained import from_pretrained


def load_same(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    model, digest = from_pretrained("diffusers", "AutoencoderSAME", source.path, since="0.40", device=device)
    config = model.config
    return frozen(
        source,
        form,
        weights=digest,
        sample_rate=config.sampling_rate,
        hop=model.downsampling_ratio,
        channels=config.latent_dim,
        context=_context(config),
        audio_channels=config.audio_channels,
        model=model,
        to_latents=lambda audio: model.encode(audio).latents,
        to_audio=lambda latents: model.decode(latents).sample,
    )


def _context(config: Any) -> int:
    """Each attention layer sees `sliding_window` groups to either side; a level's group lasts a frame or less."""
    frames = 0
    for level, depth in enumerate(config.encoder_transformer_depths):
        groups_per_frame = math.prod(config.encoder_strides[level + 1 :])
        frames += -(-depth * config.sliding_window // groups_per_frame)
    return frames
