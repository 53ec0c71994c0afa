"""Loads the Descript Audio Codec (transformers) without its quantisation: mono, convolutional, 86 Hz at 44.1 kHz.

`form=latent` (default): the quantiser's input, 1024 channels. `form=projected`: the 9 x 8 channels to which the
quantiser projects before it looks up codes. Each of the nine depends on the *codes* of those before it. So the later
ones behave like noise, and a difference in rounding can change a code when two codes are equally near.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.pretrained import choose_form, from_pretrained
from reencoder_pipeline.autoencoders.receptive_field import convolutional_context

if TYPE_CHECKING:
    from torch import Tensor


FORMS = LATENT, PROJECTED = ("latent", "projected")


def load_dac(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    form = choose_form(form, FORMS, where=source.name)
    model, digest = from_pretrained("transformers", "DacModel", source.path, since="4.44", device=device)
    config, quantizers = model.config, model.quantizer.quantizers

    def to_latents(audio: Tensor) -> Tensor:
        latents = model.encoder(audio)
        return latents if form == LATENT else model.quantizer(latents)[2]

    def to_audio(latents: Tensor) -> Tensor:
        if form == PROJECTED:
            pieces = latents.split(config.codebook_dim, dim=1)
            projected = [quantizer.out_proj(piece) for quantizer, piece in zip(quantizers, pieces, strict=True)]
            latents = torch.stack(projected).sum(dim=0)
        return model.decoder(latents)

    return frozen(
        source,
        form,
        forms=FORMS,
        weights=digest,
        sample_rate=config.sampling_rate,
        hop=config.hop_length,
        channels=config.hidden_size if form == LATENT else len(quantizers) * config.codebook_dim,
        context=convolutional_context(model.encoder, model.decoder, hop=config.hop_length),
        model=model,
        to_latents=to_latents,
        to_audio=to_audio,
    )
