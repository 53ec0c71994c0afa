"""Defines the sizes of a Vocos network (`VocosConfig`), for training configurations and weights files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from reencoder_pipeline.config import Config, require_parameters

Stage = tuple[
    Annotated[int, Field(ge=1, le=65_536)],
    Annotated[int, Field(ge=1, le=65_536)],
    Annotated[int, Field(ge=0, le=1_024)],
]


class VocosConfig(Config):
    """Sizes of a network. The encoder runs `fine` then `coarse` blocks; the decoder mirrors it.

    `fine` and `coarse` are (channels, hidden channels, blocks) at sample_rate/stft_hop and sample_rate/hop Hz.
    """

    sample_rate: int = Field(default=44_100, ge=8_000, le=768_000)
    n_fft: int = Field(default=1024, ge=16, le=65_536)
    stft_hop: int = Field(default=256, ge=4, le=65_536)
    stride: int = Field(default=4, ge=1, le=1_024)
    latent_channels: int = Field(default=64, ge=1, le=65_536)
    fine: Stage = (256, 768, 4)
    coarse: Stage = (384, 1152, 4)
    embed_kernel: int = Field(default=1, ge=1, le=1_023)
    lapped: int = Field(
        default=0,
        ge=0,
        le=65_536,
        description="channels that hold the lowest coefficients of a lapped transform, plus the network's additions",
    )
    envelope: int = Field(
        default=0,
        ge=0,
        le=65_536,
        description="the next channels; they start as a cosine series of the log spectrum above the lapped bins",
    )

    @field_validator("fine", "coarse")
    @classmethod
    def _fits_a_machine(cls, stage: tuple[int, int, int]) -> tuple[int, int, int]:
        channels, hidden, blocks = stage
        require_parameters(2 * channels * hidden * blocks)
        return stage

    @property
    def hop(self) -> int:
        return self.stft_hop * self.stride

    @property
    def lapped_bins(self) -> int:
        """STFT bins that the lapped coefficients cover, plus two for the window's width."""
        return -(-self.lapped * self.n_fft // (2 * self.hop)) + 2 if self.lapped else 0
