"""Loads EnCodec (transformers) without its quantisation: 24 and 32 kHz mono (128 channels), 48 kHz stereo (129).

It is recurrent: a frame depends on everything before it in the piece. The 48 kHz model also cuts audio into windows of
a second, divides each by its loudness, and normalises activations over the window. Here the last channel holds the
natural logarithm of the loudness, the same for all frames of a window. Windows do not overlap, so nothing fades one
into the next: the library's overlap of 480 samples is one and a half frames and fits no grid of frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.pretrained import from_pretrained
from reencoder_pipeline.errors import AutoencoderError

if TYPE_CHECKING:
    from torch import Tensor


SILENCE = 1e-8  # as in the library: added to a loudness before dividing by it


def load_encodec(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    model, digest = from_pretrained("transformers", "EncodecModel", source.path, since="4.31", device=device)
    config = model.config
    windowed = config.normalize or config.chunk_length is not None
    if windowed and (not config.normalize or not config.chunk_length or config.chunk_length % config.hop_length):
        raise AutoencoderError(
            "EnCodec's windows must be normalised and whole frames long",
            where=source.path,
            value=f"normalize {config.normalize}, {config.chunk_length} samples, hop {config.hop_length}",
            remedy="use the published 24, 32 or 48 kHz model",
        )
    return frozen(
        source,
        form,
        weights=digest,
        sample_rate=config.sampling_rate,
        hop=config.hop_length,
        channels=config.hidden_size + windowed,
        audio_channels=config.audio_channels,
        model=model,
        to_latents=(lambda audio: _encode_windows(model, audio)) if windowed else model.encoder,
        to_audio=(lambda latents: _decode_windows(model, latents)) if windowed else model.decoder,
    )


def _encode_windows(model: Any, audio: Tensor) -> Tensor:
    """(B, channels, T * hop) -> (B, C + 1, T)."""
    pieces = []
    for window in audio.split(model.config.chunk_length, dim=-1):
        loudness = window.mean(dim=1, keepdim=True).square().mean(dim=-1, keepdim=True).sqrt() + SILENCE  # (B, 1, 1)
        latents = model.encoder(window / loudness)
        pieces.append(torch.cat([latents, loudness.log().expand(-1, -1, latents.shape[-1])], dim=1))
    return torch.cat(pieces, dim=-1)


def _decode_windows(model: Any, latents: Tensor) -> Tensor:
    """(B, C + 1, T) -> (B, channels, T * hop); a window's loudness is the mean of its last channel."""
    pieces = []
    for window in latents.split(model.config.chunk_length // model.config.hop_length, dim=-1):
        loudness = window[:, -1:].mean(dim=-1, keepdim=True).exp()
        pieces.append(model.decoder(window[:, :-1]) * loudness)
    return torch.cat(pieces, dim=-1)
