"""AutoencoderTrainConfig: the settings of `reencoder-autoencoder train`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.config import MOST_STEPS, MOST_THREADS, Config, require_excerpts


class AutoencoderLosses(Config):
    """Weights of the loss terms; the spectral terms are of order one each."""

    spectral: float = Field(default=1.0, ge=0, le=1e6)
    mel: float = Field(default=1.0, ge=0, le=1e6)
    complex: float = Field(default=1.0, ge=0, le=1e6)
    waveform: float = Field(default=1.0, ge=0, le=1e6)
    kl: float = Field(default=1e-4, ge=0, le=1e6)
    free_nats: float = Field(default=0.0, ge=0, le=1e6, description="of every latent value, not penalised by kl")
    mixing: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="decode-mixing: mixed latents should decode to the mixture; a half more decoding",
    )


class AutoencoderAdversary(Config):
    """Discriminators of waveforms; none where `weight` is 0. Periods (2, 3, 5, 7, 11) are for GPUs."""

    weight: float = Field(default=0.0, ge=0, le=1e6, description="of fooling them")
    features: float = Field(default=1.0, ge=0, le=1e6, description="weight of the distance of what their layers see")
    from_step: int = Field(default=0, ge=0, le=MOST_STEPS, description="reconstruction alone before")
    fft_sizes: tuple[Annotated[int, Field(ge=16, le=65_536)], ...] = Field(default=(2048, 1024, 512), max_length=32)
    periods: tuple[Annotated[int, Field(ge=1, le=1_024)], ...] = Field(default=(), max_length=32)
    filters: int = Field(default=16, ge=1, le=4_096)
    lr: float = Field(default=2e-4, gt=0, le=10)


class AutoencoderTrainConfig(Config):
    """`reencoder-autoencoder train`: the only training that touches audio."""

    source: str = Field(description="folder or manifest; its train split is used")
    pcm: str = Field(description="folder for the decoded music, about 635 MB an hour")
    out: str = Field(description="run folder")
    init: str | None = Field(None, description="weights to start from, of the same shape")
    model: VocosConfig = VocosConfig()
    losses: AutoencoderLosses = AutoencoderLosses()
    adversary: AutoencoderAdversary = AutoencoderAdversary()
    steps: int = Field(ge=1, le=MOST_STEPS)
    decay_steps: int = Field(
        1_500, ge=0, le=MOST_STEPS, description="the learning rate falls linearly over the last steps"
    )
    batch_size: int = Field(8, ge=1, le=65_536)
    excerpt_seconds: float = Field(0.75, gt=0, le=600)
    resolutions_per_step: int = Field(2, ge=1, le=5)
    lr: float = Field(5e-4, gt=0, le=10)
    warmup_steps: int = Field(300, ge=1, le=MOST_STEPS)
    clip: float = Field(1.0, gt=0, le=1e9)
    ema: float = Field(0.998, ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrix products (autocast); auto: bfloat16 where the device multiplies it, else float32"
    )
    compile: bool = False
    seed: int = Field(0, ge=0, lt=2**63)
    valid_every: int = Field(500, ge=0, le=MOST_STEPS, description="steps between validations; 0: none")
    valid_excerpts: int = Field(24, ge=1, le=10**6)
    checkpoint_minutes: float = Field(4.0, gt=0, le=1e6)
    log_every: int = Field(50, ge=1, le=MOST_STEPS, description="steps that a row of metrics.jsonl averages")
    tensorboard: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, le=MOST_THREADS, description="CPU threads; default: torch's choice")

    @field_validator("excerpt_seconds", "valid_excerpts")
    @classmethod
    def _fit_in_memory(cls, value: float, info: ValidationInfo) -> float:
        return require_excerpts(value, info)
