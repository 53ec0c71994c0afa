"""TrainConfig: what `reencoder-train` can be told. Its fields are the arguments of `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from reencoder_pipeline.config import Config


class TrainConfig(Config):
    """`reencoder-train`: how a latent module is trained from a cache. Defaults are the paper's (section 3.2)."""

    cache: Path = Field(description="folder of the latent cache")
    out: Path = Field(description="run folder; the module, the training state and the metrics are written there")
    task: Literal["bwe", "m2s"] = "bwe"

    size: Literal["S", "M"] = "S"
    blocks: int | None = Field(None, ge=1, description="ConvNeXt blocks, if not the size's")
    width: int | None = Field(None, ge=1, description="channels of the blocks, if not the size's")
    residual: bool = Field(False, description="prediction = input + output; needs as many channels in as out")

    steps: int = Field(250_000, ge=1)
    batch_size: int = Field(256, ge=1, description="windows of the global batch, whatever the number of processes")
    window_seconds: float = Field(1.4, gt=0)
    lr: float = Field(5e-4, gt=0, description="AdamW's rate after the warm-up")
    warmup_steps: int = Field(1_000, ge=0)
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up; cosine ends at 0")
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    seed: int = Field(0, ge=0, lt=2**63)

    valid_every: int = Field(1_000, ge=0, description="steps between validations; 0: none, and no valid split needed")
    valid_windows: int = Field(512, ge=1, description="windows of a validation, rounded up to whole batches")
    checkpoint_steps: int | None = Field(None, ge=1, description="a checkpoint at every multiple of this, if given")
    checkpoint_minutes: float = Field(5.0, gt=0, description="a checkpoint after this long without one")
    log_every: int = Field(10, ge=1, description="steps that a row of metrics.jsonl averages")
    tensorboard: bool = True

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, description="CPU threads; default: torch's choice")
