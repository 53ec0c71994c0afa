"""The configurations of `reencoder-eval` and of `reencoder-autoencoder evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from reencoder_pipeline.config import Config


class ModuleEntry(Config):
    """A trained module and what its row is called."""

    label: str = Field(min_length=1)
    path: Path


class ClipsConfig(Config):
    """Which clips are measured, and where. Paths are relative to the working directory."""

    source: Path = Field(description="folder, list or manifest of audio")
    split: Literal["train", "valid", "test"] | None = Field("test", description="null: every track")
    valid_share: float = Field(0.05, ge=0, lt=1, description="for tracks without a split; the same as the cache's")
    test_share: float = Field(0.10, ge=0, lt=1, description="for tracks without a split; the same as the cache's")
    resampler: Literal["soxr_vhq", "torchaudio_kaiser_best", "torchaudio_default"] = "soxr_vhq"
    num_clips: int = Field(48, ge=1)
    clip_seconds: float = Field(10.0, ge=0.1)
    seed: int = Field(0, ge=0)
    listening_clips: int = Field(
        6, ge=0, description="the first of the clips, kept as audio and put on the listening page"
    )
    device: Literal["cpu", "cuda"] = "cpu"
    workers: int = Field(2, ge=0, description="processes that score, one thread each; 0: none beside this one")


class AutoencoderEvalConfig(ClipsConfig):
    """`reencoder-autoencoder evaluate`: works without a file; configs/eval/autoencoder.yaml says the same."""

    source: Path = Field(Path("out/music/manifest.jsonl"), description="folder, list or manifest of audio")
    diagnostic_clips: int = Field(16, ge=0, description="the first of the clips, for the latents; 0: none")
    diagnostic_seconds: float = Field(5.0, ge=0.25, description="how much of each of them")
    out: Path | None = Field(None, description="null: out/eval/autoencoder/NAME/SPLIT")


class EvalConfig(ClipsConfig):
    """`reencoder-eval CONFIG`: which clips go through which systems."""

    autoencoder: str = Field(
        "house", description="house, weights on disk, a hub id, or package.module:function; options after #"
    )
    modules: list[ModuleEntry] = Field([], description="trained modules; the other rows come by themselves")
    task: Literal["bwe"] = "bwe"
    out: Path

    @field_validator("modules")
    @classmethod
    def _labels_differ(cls, modules: list[ModuleEntry]) -> list[ModuleEntry]:
        labels = [entry.label for entry in modules]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"labels name the rows of the tables and must differ: {', '.join(repeated)} is repeated")
        return modules
