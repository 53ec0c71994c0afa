"""Loads CoDiCodec (Sony CSL): stereo in one latent; each 0.7 s become a set of 8 vectors of 64, decoded from noise.

The 8 vectors have no order in time, so a frame here is a whole set: 32,768 samples, 512 channels, 1.5 frames a second.
Each frame is encoded alone. As with Music2Latent, noise comes from a fixed seed, decoding gives no gradients, and the
package's download and unpickling are not used.
"""

from __future__ import annotations

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor

from reencoder_pipeline.autoencoders.families.music2latent import TENSORS, named_file, seeded
from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.pretrained import digest_of, library_class
from reencoder_pipeline.autoencoders.tensor_files import load_tensors, read_tensors


def load_codicodec(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    codec_class = library_class("codicodec.inference", "EncoderDecoder", since="0.1.2")
    library = importlib.import_module("codicodec.inference")
    audio_channels = 2 if library.stereo else 1
    file = named_file(source)
    codec = codec_class.__new__(codec_class)  # its __init__ downloads
    codec.device = torch.device(device)
    codec.latents_per_timestep, codec.bottleneck_channels = library.num_latents, library.bottleneck_channels
    codec.gen = load_tensors(library.UNet(), read_tensors(file, inside=TENSORS), file=file, device=device)
    hop = library.hop * library.spec_length
    edge = (library.fac - 1) * library.hop // 2  # samples by which its spectrogram exceeds its frames at each end
    channels = library.num_latents * library.bottleneck_channels
    width = min(64, channels)

    def to_latents(audio: Tensor) -> Tensor:
        latents = codec.encode(F.pad(audio, (edge, edge)), desired_channels=width)
        return latents.flatten(2).transpose(1, 2)  # (B, T, vectors, width) -> (B, T, C) -> (B, C, T)

    def to_audio(latents: Tensor) -> Tensor:
        vectors = latents.transpose(1, 2).unflatten(2, (-1, width))  # (B, C, T) -> (B, T, vectors, width)
        return torch.cat([seeded(codec.decode, item[None]) for item in vectors])[..., edge:].to(latents.device)

    return frozen(
        source,
        form,
        weights=digest_of([file]),
        sample_rate=library.sample_rate,
        hop=hop,
        channels=channels,
        context=1,
        audio_channels=audio_channels,
        model=codec.gen,
        to_latents=to_latents,
        to_audio=to_audio,
    )
