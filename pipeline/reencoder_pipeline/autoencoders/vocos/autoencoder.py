"""Loads autoencoders of the vocos family, and the house weights that ship with the package."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.known_files import UNVERIFIED, VOCOS_FILE
from reencoder_pipeline.autoencoders.pretrained import choose_form
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.autoencoders.vocos.weights import load_vocos
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.stores.digests import file_digest

HOUSE_WEIGHTS = Path(__file__).with_name("house.safetensors")


def load_house(*, device: str) -> VocosAutoencoder:
    return VocosAutoencoder.load(HOUSE_WEIGHTS, device=device, name="house", licence="MIT")


def load_source(source: Source, *, form: str | None, device: str) -> VocosAutoencoder:
    """Load a file that `reencoder-autoencoder train` wrote, or the folder that holds it."""
    choose_form(form, (), where=source.path)
    path = source.path
    return VocosAutoencoder.load(path / VOCOS_FILE if path.is_dir() else path, device=device, licence=source.licence)


class VocosAutoencoder:
    """An `Autoencoder` of one channel; stereo is two items of the batch, as in the paper."""

    local = True

    def __init__(self, model: Vocos, spec: LatentSpec, *, licence: str = UNVERIFIED) -> None:
        self.model, self.spec, self.licence = model, spec, licence
        self.context = context_frames(model.config)

    @classmethod
    def load(
        cls, path: Path, *, device: str = "cpu", name: str | None = None, licence: str = UNVERIFIED
    ) -> VocosAutoencoder:
        model = load_vocos(path).to(device)
        shape = model.config
        # Named by content, so that a moved or renamed file is still the same autoencoder.
        digest = file_digest(path)
        spec = LatentSpec(name or path.stem, digest, shape.sample_rate, shape.hop, shape.latent_channels)
        return cls(model, spec, licence=licence)

    def encode(self, audio: Tensor) -> Tensor:
        return self.posterior(audio)[0]

    @torch.inference_mode()
    def posterior(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, L) -> mean and log of the standard deviation, (B, C, ceil(L / hop)) each; the mean is `encode`'s."""
        mean, log_variance = self.model.encoder(F.pad(audio, (0, -audio.shape[-1] % self.spec.hop)))
        return mean, log_variance / 2

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decoder(latents)


def context_frames(config: VocosConfig) -> int:
    """Half the receptive field of encoder or decoder in latent frames: 3 frames a block at each rate, plus the STFT."""
    spectral = -(-config.n_fft // config.stft_hop) + config.embed_kernel // 2
    return 3 * config.coarse[2] + -(-(3 * config.fine[2] + spectral) // config.stride) + 1
