"""VocosConfig: the sizes of the family."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VocosConfig:
    """Shape of the family. The encoder reads `fine` then `coarse` blocks, the decoder mirrors it.

    fine/coarse are (channels, hidden channels, blocks), at sample_rate/stft_hop and sample_rate/(stft_hop*stride) Hz.
    """

    sample_rate: int = 44_100
    n_fft: int = 1024
    stft_hop: int = 256
    stride: int = 4
    latent_channels: int = 64
    fine: tuple[int, int, int] = (256, 768, 4)
    coarse: tuple[int, int, int] = (384, 1152, 4)
    embed_kernel: int = 1
    lapped: int = 0  # channels that hold the lowest coefficients of a lapped transform, and what the network adds
    envelope: int = 0  # the next channels, which start as a cosine series of the log spectrum above

    @property
    def hop(self) -> int:
        return self.stft_hop * self.stride

    @property
    def lapped_bins(self) -> int:
        """STFT bins that the lapped coefficients reach, and two more for the window's width."""
        return -(-self.lapped * self.n_fft // (2 * self.hop)) + 2 if self.lapped else 0
