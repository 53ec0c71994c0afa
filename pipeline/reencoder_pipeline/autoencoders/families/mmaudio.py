"""Loads MMAudio (diffusers): an autoencoder of mel spectrograms and its vocoder; mono, 44.1 kHz, 43 frames a second.

It attends to the whole piece in both directions, and clips audio beyond full scale. Its latents are not scaled:
`scaling_factor` belongs to one diffusion model.
"""

from __future__ import annotations

import hashlib

import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.known_files import CONFIG
from reencoder_pipeline.autoencoders.pretrained import from_pretrained
from reencoder_pipeline.errors import AutoencoderError


def load_mmaudio(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    """`source` is the autoencoder's folder; the vocoder is the folder `vocoder` beside it or in it."""
    beside = [folder / "vocoder" for folder in (source.path, source.path.parent)]
    vocoder_path = next((path for path in beside if (path / CONFIG).is_file()), None)
    if vocoder_path is None:
        remedy = "put the MMAudioVocoder into a folder `vocoder` beside or in the autoencoder's"
        raise AutoencoderError("MMAudio's vocoder is missing", where=beside[1], remedy=remedy)
    vae, digest = from_pretrained("diffusers", "MMAudioVAE", source.path, since="0.42.1", device=device)
    vocoder, second = from_pretrained("diffusers", "MMAudioVocoder", vocoder_path, since="0.42.1", device=device)
    config, hop = vae.config, vae.latent_hop_length
    if vocoder.config.num_mels != config.mel_bins:
        value = f"{vocoder.config.num_mels} mel bands, not {config.mel_bins}"
        what, remedy = "this vocoder belongs to another autoencoder", "fetch the vocoder published with the autoencoder"
        raise AutoencoderError(what, where=vocoder_path, value=value, remedy=remedy)

    def to_latents(audio: Tensor) -> Tensor:
        reflected = (config.n_fft - config.hop_length) // 2  # samples that the spectrogram mirrors at each end
        audio = F.pad(audio, (0, hop * max(0, -(-(reflected + 1 - audio.shape[-1]) // hop))))
        return vae.encode(audio[:, 0]).latent_dist.mode()

    return frozen(
        source,
        form,
        weights=hashlib.sha256((digest + second).encode()).hexdigest(),
        sample_rate=config.sample_rate,
        hop=hop,
        channels=config.latent_channels,
        model=nn.ModuleList([vae, vocoder]),
        to_latents=to_latents,
        to_audio=lambda latents: vocoder(vae.decode(latents).sample).sample,
    )
