"""Makes an Autoencoder from two functions of any model: adds padding, exact lengths, and mono or stereo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.pretrained import choose_form
from reencoder_pipeline.errors import AutoencoderError
from reencoder_pipeline.latents import LatentSpec

JOINT, DUAL_MONO = "joint", "dual_mono"


@dataclass(frozen=True)
class FrozenAutoencoder:
    """`to_latents` maps (B, audio_channels, T * hop) to (B, C, at least T) and `to_audio` maps (B, C, T) to
    (B, audio_channels, about T * hop); `model` holds their weights, float32 and frozen.

    A model of two audio channels with a "per_channel" spec is in its dual-mono form: `encode` repeats the channel,
    `decode` averages the two.
    """

    spec: LatentSpec
    context: int
    local: bool
    licence: str
    audio_channels: int
    model: nn.Module
    to_latents: Callable[[Tensor], Tensor]
    to_audio: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        accepted = (1, 2) if self.spec.stereo == JOINT else (1,)
        if audio.dim() != 3 or audio.shape[1] not in accepted or audio.shape[2] == 0:
            expected = f"(batch, {' or '.join(map(str, accepted))}, at least one sample)"
            what = f"{self.spec.autoencoder} encodes audio of shape {expected}, and got another"
            remedy = "reshape it; for an autoencoder of one channel, put the channels into the batch"
            raise AutoencoderError(what, value=tuple(audio.shape), remedy=remedy)
        frames = self.spec.num_frames(audio.shape[-1])
        padded = F.pad(audio, (0, self.spec.num_samples(frames) - audio.shape[-1]))
        latents = self.to_latents(padded.expand(-1, self.audio_channels, -1))[..., :frames]
        assert latents.shape == (len(audio), self.spec.channels, frames), f"{latents.shape} for {audio.shape}"
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        if latents.dim() != 3 or latents.shape[1] != self.spec.channels:
            what = f"{self.spec.autoencoder} decodes latents of shape (batch, {self.spec.channels}, frames), not others"
            remedy = "transpose the latents, or give those of this autoencoder"
            raise AutoencoderError(what, value=tuple(latents.shape), remedy=remedy)
        length = self.spec.num_samples(latents.shape[-1])
        audio = self.to_audio(latents)
        audio = F.pad(audio, (0, max(0, length - audio.shape[-1])))[..., :length]  # an odd stride ends early
        return audio if self.spec.stereo == JOINT else audio.mean(dim=1, keepdim=True)


def frozen(
    source: Source,
    form: str | None,
    *,
    forms: Sequence[str] = (),
    weights: str,
    sample_rate: int,
    hop: int,
    channels: int,
    context: int | None = None,
    audio_channels: int = 1,
    model: nn.Module,
    to_latents: Callable[[Tensor], Tensor],
    to_audio: Callable[[Tensor], Tensor],
) -> FrozenAutoencoder:
    """Make the autoencoder of `source` in the requested form; `weights` is the digest of its weights.

    `forms` are those that it has; by default joint and dual mono for two audio channels, and none for one.
    It is named after family and form, so that moving the folder changes nothing. Without a `context` it is not local,
    and its context is one second, which keeps a piece's edge out of the result.
    """
    form = choose_form(form, forms or ((JOINT, DUAL_MONO) if audio_channels == 2 else ()), where=source.name)
    name = source.family if form is None else f"{source.family}#form={form}"
    spec = LatentSpec(name, weights, sample_rate, hop, channels, "joint" if form == JOINT else "per_channel")
    frames = spec.num_frames(sample_rate) if context is None else context
    local = context is not None
    return FrozenAutoencoder(spec, frames, local, source.licence, audio_channels, model, to_latents, to_audio)
