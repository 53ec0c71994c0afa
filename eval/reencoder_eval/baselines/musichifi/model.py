"""MusicHiFi: connects the generator to its input and output for bandwidth extension or upmixing."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from torch import Tensor, nn

from reencoder_eval.baselines.musichifi.generator import Generator, GeneratorSizes
from reencoder_eval.baselines.musichifi.mel import LogMel

MusicHiFiTask = Literal["bwe", "m2s"]

SAMPLE_RATE = 44_100
HOP = 256  # samples at the full rate
FRAME_RATE = Fraction(SAMPLE_RATE, HOP)


class MusicHiFi(nn.Module):
    """Audio at 44.1 kHz, (B, 1, L) -> the same shape, aligned.

    bwe: low band -> low band + output of the generator for its mel spectrum. The low band already has the full rate, so
    it is the sinc-interpolated input of the skip connection, and every second sample is the signal at 22.05 kHz.
    m2s: mid -> side.
    """

    def __init__(self, task: MusicHiFiTask, sizes: GeneratorSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or GeneratorSizes()
        assert sizes.hop == HOP
        self.task: MusicHiFiTask = task
        self.step = 2 if task == "bwe" else 1  # a frame is a hop of 128 samples at 22.05 kHz, or of 256 at 44.1
        hop = HOP // self.step
        self.mel = LogMel(sample_rate=SAMPLE_RATE // self.step, window=4 * hop, hop=hop, bands=sizes.mel_bands)
        self.generator = Generator(sizes)

    @property
    def context(self) -> int:
        """Samples on each side of a frame that its output depends on: 17 whole frames for the published sizes."""
        return HOP * (self.mel.context + self.generator.sizes.context)

    def forward(self, audio: Tensor) -> Tensor:
        generated = self.generator(self.mel(audio[..., :: self.step]))[..., : audio.shape[-1]]
        return audio + generated if self.task == "bwe" else generated
