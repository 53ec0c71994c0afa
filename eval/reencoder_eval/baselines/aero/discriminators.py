"""Aero's discriminator: MelGAN's, on the waveform at three rates (Kumar et al. 2019)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from reencoder_eval.baselines.adversarial import FeatureMaps
from reencoder_pipeline.autoencoders.vocos.training.adversary import feature_maps

SCALES, LAYERS, DOWNSAMPLING = 3, 4, 4  # rates; strided convolutions and the stride of each


class MultiScaleDiscriminator(nn.Module):
    """(B, 1, n) -> for each rate, 1, 1/2 and 1/4, the feature maps of its discriminator, scores last."""

    def __init__(self, *, filters: int = 16) -> None:
        super().__init__()
        self.scales = nn.ModuleList(ScaleDiscriminator(filters) for _ in range(SCALES))
        self.halve = nn.AvgPool1d(4, stride=2, padding=1, count_include_pad=False)

    def forward(self, audio: Tensor) -> FeatureMaps:
        maps = []
        for index, scale in enumerate(self.scales):
            audio = self.halve(audio) if index else audio
            maps.append(scale(audio))
        return maps


class ScaleDiscriminator(nn.Module):
    """Strided convolutions in groups of four channels between plain ones; (B, 1, n) -> LAYERS + 3 maps."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        widest = filters * DOWNSAMPLING ** (LAYERS - 1)
        width, convolutions = filters, [nn.Conv1d(1, filters, 15, padding=7, padding_mode="reflect")]
        for _ in range(LAYERS):
            wider = min(width * DOWNSAMPLING, widest)
            kernel = 10 * DOWNSAMPLING + 1
            convolutions.append(
                nn.Conv1d(width, wider, kernel, stride=DOWNSAMPLING, padding=kernel // 2, groups=width // 4)
            )
            width = wider
        convolutions.append(nn.Conv1d(width, width, 5, padding=2))
        self.layers = nn.ModuleList(weight_norm(convolution) for convolution in convolutions)
        self.score = weight_norm(nn.Conv1d(width, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        maps = feature_maps(audio, self.layers, slope=0.2)
        return [*maps, self.score(maps[-1])]
