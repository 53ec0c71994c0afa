"""The settings of `reencoder-train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from reencoder_pipeline.config import MOST_STEPS, MOST_THREADS, Config, require_parameters, require_seconds
from reencoder_pipeline.stores.store import is_url

Place = Annotated[Path | str, AfterValidator(lambda place: place if is_url(place) else Path(place))]
"""A path, or a URL, which stays text because a Path would turn s3:// into s3:/."""


MOST_BATCH_SECONDS = 10**6  # 8 GB of latents at 64 channels; the paper's batch has 1,024 s


class Losses(Config):
    """Weights of the loss terms. A term with weight 0 is not computed and needs no memory."""

    reconstruction: float = Field(default=10.0, gt=0, le=1e6, description="equation 1: mean L1 of normalised latents")
    adversarial: float = Field(default=0.0, ge=0, le=1e6, description="equation 2; 0.5 in the paper")
    feature_matching: float = Field(default=0.0, ge=0, le=1e6, description="equation 3; 1 in the paper")
    mel: float = Field(
        default=0.0, ge=0, le=1e6, description="mel distance through the frozen decoder (table 1, row 7)"
    )
    level: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="distance between the levels of latents and, with two targets, of their side; not in the paper",
    )
    kl: float = Field(
        default=5e-4,
        ge=0,
        le=1e6,
        description="KL of the condition's posterior, if there is a condition; always logged",
    )


class Discriminator(Config):
    """The latent discriminator, used if losses.adversarial or losses.feature_matching is above 0."""

    channels: int = Field(default=256, ge=1, le=4_096)
    lr: float = Field(default=1e-4, gt=0, le=10)
    warmup_steps: int = Field(default=20_000, ge=0, le=MOST_STEPS)
    through_denominator: bool = Field(
        default=False, description="pass gradients through equation 3's divisor, as the paper writes it"
    )


class Condition(Config):
    """The variational condition (section 2.3); `channels` 0 means no condition."""

    channels: int = Field(default=0, ge=0, le=65_536, description="H, 64 in the paper; 0: no condition")
    blocks: int = Field(
        default=2, ge=1, le=256, description="ConvNeXt blocks of the condition encoder, as wide as the module's"
    )
    levels: bool = Field(
        default=False, description="also give the encoder the level of left minus right; not in the paper"
    )
    kl_warmup_steps: int = Field(
        default=0, ge=0, le=MOST_STEPS, description="steps over which losses.kl grows from 0 (annealing)"
    )


class TrainConfig(Config):
    """All settings of a training. Defaults are the paper's (section 3.2)."""

    cache: Place = Field(description="folder or URL (s3://bucket/cache) of the latent cache")
    local_folder: Path | None = Field(
        None, description="folder for local copies of a cache at a URL; default: the user's cache folder"
    )
    local_gigabytes: float | None = Field(
        None, gt=0, le=1e7, description="most GB of such copies; default: what the disk holds"
    )
    stream_shards: int | None = Field(
        None,
        ge=1,
        le=10**7,
        description="keep only this many shards, in memory, and fetch the others in turn; default: all on local disk",
    )
    checked_reads: bool = Field(False, description="compare frames with their checksums when they are first read")
    out: Path = Field(description="run folder for the module, the training state and the metrics")
    task: Literal["bwe", "m2s"] = "bwe"

    size: Literal["S", "M"] = "S"
    blocks: int | None = Field(None, ge=1, le=1_024, description="ConvNeXt blocks; default: by size")
    width: int | None = Field(None, ge=1, le=65_536, description="channels of the blocks; default: by size")
    output: Literal["direct", "residual", "difference", "panning"] = Field(
        "direct",
        description="what is predicted. direct: the target; residual: what is added to the input; difference: half of "
        "left minus right; panning: the same as a gain on the input and an offset",
    )
    normalisation: Literal["own", "shared"] = Field(
        "own", description="own: each stream by its own statistics; shared: all by mono's, so that a copy stays a copy"
    )
    response_frames: int | None = Field(
        None,
        ge=1,
        le=999_999,
        description="odd number of frames that GRN sees around each frame, for streaming; default: all frames",
    )
    condition: Condition = Condition()
    losses: Losses = Losses()
    discriminator: Discriminator = Discriminator()
    autoencoder: str = Field("house", description="autoencoder of the cache; loaded only if losses.mel is above 0")
    mel_windows: int | None = Field(
        None, ge=1, le=10**6, description="windows per batch that losses.mel decodes (expensive); default: all"
    )
    swap_left_right: bool = Field(False, description="swap left and right of each window with probability 1/2 (m2s)")

    steps: int = Field(250_000, ge=1, le=MOST_STEPS)
    batch_size: int = Field(256, ge=1, le=10**6, description="windows of the global batch, over all processes")
    window_seconds: float = Field(1.4, gt=0, le=3600)
    lr: float = Field(5e-4, gt=0, le=10, description="AdamW's learning rate after the warm-up")
    warmup_steps: int = Field(1_000, ge=0, le=MOST_STEPS)
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up; cosine ends at 0")
    weight_decay: float = Field(1e-4, ge=0, le=1e3)
    max_grad_norm: float | None = Field(
        None, gt=0, le=1e9, description="clip gradients to this norm; default: no clipping"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of a moving average of the weights, which is released; 0: no average"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="number format of matrix products (autocast); auto: bfloat16 if the device supports it"
    )
    weights: Literal["float32", "float16"] = Field(
        "float32", description="number format of the module file; float16 halves its size"
    )
    compile: bool = Field(False, description="use torch.compile, which pays off after some minutes")
    seed: int = Field(0, ge=0, lt=2**63)

    valid_every: int = Field(
        1_000, ge=0, le=MOST_STEPS, description="steps between validations; 0: never, and no valid split is needed"
    )
    valid_windows: int = Field(512, ge=1, le=10**7, description="windows of a validation, rounded up to whole batches")
    checkpoint_steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="steps between checkpoints; default: by time alone"
    )
    checkpoint_minutes: float = Field(5.0, gt=0, le=1e6, description="longest time between checkpoints")
    log_every: int = Field(10, ge=1, le=MOST_STEPS, description="steps averaged into a row of metrics.jsonl")
    tensorboard: bool = True

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, le=MOST_THREADS, description="CPU threads; default: torch's choice")

    @field_validator("output", "condition", "swap_left_right")
    @classmethod
    def _fits_the_task(cls, value: Any, info: ValidationInfo) -> Any:
        of_two = value in ("difference", "panning") or value is True or (isinstance(value, Condition) and value.levels)
        if of_two and info.data.get("task", "m2s") != "m2s":
            what = "levels" if isinstance(value, Condition) else str(value).lower()
            raise ValueError(f"{what} is for m2s, whose targets are left and right")
        return value

    @field_validator("width")
    @classmethod
    def _fits_a_machine(cls, width: int | None, info: ValidationInfo) -> int | None:
        require_parameters(4 * (info.data.get("blocks") or 1) * (width or 1) ** 2)  # the expansion is 2
        return width

    @field_validator("window_seconds")
    @classmethod
    def _fits_a_batch(cls, seconds: float, info: ValidationInfo) -> float:
        require_seconds(seconds * info.data.get("batch_size", 1), most=MOST_BATCH_SECONDS)
        return seconds

    @field_validator("response_frames")
    @classmethod
    def _is_odd(cls, frames: int | None) -> int | None:
        if frames is not None and frames % 2 == 0:
            raise ValueError("must be odd: as many frames before a frame as after it")
        return frames

    @property
    def adversarial(self) -> bool:
        return self.losses.adversarial > 0 or self.losses.feature_matching > 0
