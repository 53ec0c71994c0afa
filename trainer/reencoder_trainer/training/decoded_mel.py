"""L1 + mel: a mel loss through the frozen decoder, from latents alone (paper, table 1, row 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from reencoder_pipeline.audio.mel import mel_filterbanks
from reencoder_pipeline.autoencoder import Autoencoder, load_own_autoencoder
from reencoder_pipeline.autoencoders.vocos.training.losses import mel_loss
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.errors import AutoencoderError
from reencoder_trainer.module.normalisation import Scaling
from reencoder_trainer.training.losses import with_side


class DecodedMel:
    """Distance of the mel spectra that an autoencoder decodes two latents to.

    The reference is the decoded target latent, not the audio it came from: shards suffice, and what the autoencoder
    itself loses does not count. For two streams the side, half the difference of what they decode to, counts as a
    third, because spectra of left and right do not show how the two differ.
    AutoencoderError where the decoder lets no gradient through.
    """

    def __init__(self, autoencoder: Autoencoder, targets: Scaling, *, device: torch.device) -> None:
        self._autoencoder, self._targets = autoencoder, targets
        self._filterbanks = mel_filterbanks(autoencoder.spec.sample_rate, device=device)
        probe = torch.zeros(1, autoencoder.spec.channels, 2, device=device, requires_grad=True)
        if not autoencoder.decode(probe).requires_grad:
            raise AutoencoderError(
                "its decoder lets no gradient through",
                where=autoencoder.spec.autoencoder,
                remedy="set losses.mel to 0, or use an autoencoder with a differentiable decoder",
            )

    def __call__(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Normalised target latents (B, streams * C, T) both -> scalar"""
        with torch.no_grad():
            true = self._decode(reference)
        return mel_loss(self._decode(estimate), true, filterbanks=self._filterbanks)

    def _decode(self, latents: Tensor) -> Tensor:
        """Normalised (B, streams * C, T) -> audio (B * sounds * channels of the decoder, T * hop)

        Sounds are the streams, and the side where there are two.
        """
        raw = self._targets.undo(latents).unflatten(1, (-1, self._autoencoder.spec.channels))
        audio = self._autoencoder.decode(raw.flatten(0, 1)).unflatten(0, raw.shape[:2])  # (B, streams, channels, L)
        return with_side(audio, raw.shape[1]).flatten(0, 2)


def load_decoded_mel(name: str, cache: LatentCache, targets: Scaling, *, device: torch.device) -> DecodedMel:
    """Load the autoencoder that made the cache; CacheError names the fields in which another one differs."""
    option = "autoencoder: NAME in the configuration"
    autoencoder = load_own_autoencoder(cache.spec, named=name, where=name, device=device.type, option=option)
    return DecodedMel(autoencoder, targets, device=device)
