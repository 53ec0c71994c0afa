"""Loads Oobleck (diffusers): Stable Audio Open, ACE-Step 1.5 and relatives; stereo in one latent, convolutional."""

from __future__ import annotations

import math
from typing import Any

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.pretrained import from_pretrained
from reencoder_pipeline.autoencoders.receptive_field import convolutional_context


def load_oobleck(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    model, digest = from_pretrained("diffusers", "AutoencoderOobleck", source.path, since="0.30", device=device)
    return freeze_oobleck(model, source, form=form, digest=digest)


def freeze_oobleck(
    model: Any, source: Source, *, form: str | None, digest: str, scale: float = 1.0
) -> FrozenAutoencoder:
    """Freeze an AutoencoderOobleck. Its latents are posterior means divided by `scale`."""
    config = model.config
    hop = math.prod(config.downsampling_ratios)
    return frozen(
        source,
        form,
        weights=digest,
        sample_rate=config.sampling_rate,
        hop=hop,
        channels=config.decoder_input_channels,
        context=convolutional_context(model.encoder, model.decoder, hop=hop),
        audio_channels=config.audio_channels,
        model=model,
        to_latents=lambda audio: model.encode(audio).latent_dist.mode() / scale,
        to_audio=lambda latents: model.decode(latents * scale).sample,
    )
