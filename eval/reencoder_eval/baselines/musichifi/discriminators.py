"""The discriminator of the Descript Audio Codec (Kumar et al. 2023), on folded waveforms and on bands of spectra."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from reencoder_eval.baselines.adversarial import FeatureMaps
from reencoder_eval.baselines.musichifi.mel import spectrum
from reencoder_pipeline.autoencoders.vocos.training.adversary import Judgement, PeriodDiscriminator, feature_maps

PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (2048, 1024, 512)
SLOPE = 0.1  # of the leaky ReLUs
BAND_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of half the sample rate


class Discriminator(nn.Module):
    """Audio (B, 1, L) -> for each sub-discriminator its feature maps, of which the last holds the scores.

    Every item is first brought to the same peak and mean, so that level is left to the other losses.
    """

    def __init__(self, *, filters: int = 32) -> None:
        super().__init__()
        periods = [PeriodDiscriminator(period, filters, slope=SLOPE) for period in PERIODS]
        self.parts = nn.ModuleList([*periods, *(SpectrumDiscriminator(window, filters) for window in WINDOWS)])

    def forward(self, audio: Tensor) -> FeatureMaps:
        audio = audio - audio.mean(dim=-1, keepdim=True)
        audio = 0.8 * audio / (audio.abs().amax(dim=-1, keepdim=True) + 1e-9)
        judgements: list[Judgement] = [part(audio) for part in self.parts]
        return [[*maps, scores] for scores, maps in judgements]


class SpectrumDiscriminator(nn.Module):
    """2-d convolutions over the complex spectrum, with separate weights per band and one score map over all bands."""

    window: Tensor

    def __init__(self, window: int, filters: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        edges = [int(edge * (window // 2 + 1)) for edge in BAND_EDGES]
        self.bands = [slice(first, last) for first, last in pairwise(edges)]
        self.stacks = nn.ModuleList(_band_layers(filters) for _ in self.bands)
        self.scores = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> Judgement:
        frames = torch.view_as_real(spectrum(audio, window=self.window, hop=len(self.window) // 4))
        x = frames.permute(0, 3, 2, 1)  # (B, F, T, 2) -> (B, 2, T, F)
        maps = [
            feature_maps(x[..., band], stack.children(), slope=SLOPE)
            for band, stack in zip(self.bands, self.stacks, strict=True)
        ]
        scores = self.scores(torch.cat([of_band[-1] for of_band in maps], dim=-1))
        return scores, [layer for of_band in maps for layer in of_band]


def _band_layers(filters: int) -> nn.ModuleList:
    layers = [nn.Conv2d(2, filters, (3, 9), padding=(1, 4))]
    layers += [nn.Conv2d(filters, filters, (3, 9), (1, 2), padding=(1, 4)) for _ in range(3)]  # half the bins each
    layers.append(nn.Conv2d(filters, filters, 3, padding=1))
    return nn.ModuleList(weight_norm(layer) for layer in layers)
