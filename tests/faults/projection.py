"""An autoencoder that costs nothing: a frame is 64 samples times a fixed matrix. A shard is then a second of music."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from reencoder_pipeline.latents import LatentSpec

HOP, CHANNELS = 64, 8


class Projection:
    local, licence, context = True, "none", 0

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.randn(HOP, CHANNELS, generator=generator) / 4
        digest = hashlib.sha256(self._matrix.numpy().tobytes()).hexdigest()
        self.spec = LatentSpec("projection", digest, sample_rate=44_100, hop=HOP, channels=CHANNELS)

    def encode(self, audio: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(audio, (0, -audio.shape[2] % HOP))
        return (padded.unflatten(2, (-1, HOP))[:, 0] @ self._matrix).mT  # (B, T, C) -> (B, C, T)

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.mT @ self._matrix.T).flatten(1).unsqueeze(1)  # (B, T, hop) -> (B, 1, T * hop)


def load(device: str) -> Projection:
    assert device == "cpu", "tests run on the processor"
    return Projection()
