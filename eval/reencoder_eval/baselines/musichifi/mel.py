"""Computes spectra whose frame t is centred on hop t, and the log-mel input of the generator from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reencoder_pipeline.audio.mel import mel_filters

FLOOR = 1e-5  # of a mel magnitude, before the logarithm


class LogMel(nn.Module):
    """(B, 1, L) -> natural logarithms of mel magnitudes, (B, bands, frames), frames = max(2, ceil(L / hop))."""

    window: Tensor
    filters: Tensor

    def __init__(self, *, sample_rate: int, window: int, hop: int, bands: int) -> None:
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        filters = mel_filters(window, bands=bands, sample_rate=sample_rate)
        self.register_buffer("filters", filters, persistent=False)

    @property
    def context(self) -> int:
        """Frames on each side of its own with which a frame shares samples."""
        return -(-(len(self.window) - self.hop) // 2 // self.hop)

    def forward(self, audio: Tensor) -> Tensor:
        # Reflection at the edges needs more samples than the window reaches past its frame: two hops for four.
        short = max(0, 2 * self.hop - audio.shape[-1])
        magnitude = spectrum(F.pad(audio, (0, short)), window=self.window, hop=self.hop).abs()
        with torch.autocast(audio.device.type, enabled=False):
            return (self.filters @ magnitude).clamp(min=FLOOR).log()


def spectrum(audio: Tensor, *, window: Tensor, hop: int) -> Tensor:
    """(B, 1, L) -> complex (B, window // 2 + 1, ceil(L / hop)); frame t is centred on the middle of hop t.

    The last hop is padded with zeros; the edges are reflected.
    """
    audio = F.pad(audio.float(), (0, -audio.shape[-1] % hop))
    reach = (len(window) - hop) // 2
    audio = F.pad(audio, (reach, reach), mode="reflect")[:, 0]
    return torch.stft(audio, len(window), hop, window=window, center=False, return_complex=True)
