"""The settings of `reencoder-eval`, its `train-baseline`, and `reencoder-autoencoder evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from reencoder_pipeline.config import MOST_STEPS, MOST_THREADS, Config, Resampler, require_excerpts


class ModuleEntry(Config):
    """A trained module and the label of its row."""

    label: str = Field(min_length=1)
    path: Path = Field(description="a module file, the folder of a run, or the name of a released module")


class BaselineEntry(Config):
    """A system on raw audio. A model without weights has costs but no scores."""

    name: str = Field(
        min_length=1,
        description="folding, decorrelation, aero, musichifi_bwe, musichifi_m2s, or package.module:function (called)",
    )
    weights: Path | None = None
    label: str | None = Field(None, min_length=1, description="label of its rows, needed if a baseline occurs twice")


class ExternalEntry(Config):
    """A program that reads an audio file and writes one; `reencoder_eval.baselines.external` describes how it runs."""

    label: str = Field(min_length=1)
    cmd: str = Field(min_length=1, description="command with {input} and {output} or {outdir}; run without a shell")
    output: str = Field("*.wav", description="pattern of the one file that the program writes into {outdir}")
    sample_rate: int | None = Field(None, gt=0, le=768_000, description="sample rate of {input}; null: the full rate")
    delay: int = Field(0, ge=0, le=10**8, description="delay of its output in samples at the full rate")
    timeout: float = Field(600.0, gt=0, le=604_800, description="longest time for a clip in seconds")
    environment: dict[str, str] = Field({}, description="environment variables to add")


class ClipsConfig(Config):
    """The clips to measure, and the device. Paths are relative to the working directory."""

    source: Path = Field(description="folder, list or manifest of audio")
    split: Literal["train", "valid", "test"] | None = Field("test", description="null: every track")
    valid_share: float = Field(0.05, ge=0, lt=1, description="for tracks without a split; use the cache's value")
    test_share: float = Field(0.10, ge=0, lt=1, description="for tracks without a split; use the cache's value")
    resampler: Resampler = "soxr_vhq"
    num_clips: int = Field(48, ge=1, le=10**6)
    clip_seconds: float = Field(10.0, ge=0.1, le=3600)
    seed: int = Field(0, ge=0, lt=2**63)
    listening_clips: int = Field(
        6, ge=0, le=10**6, description="number of clips whose audio is kept and put on the listening page"
    )
    device: Literal["cpu", "cuda"] = "cpu"
    workers: int = Field(
        2, ge=0, le=1_024, description="scoring processes of one thread each; 0: score in this process"
    )


class AutoencoderEvalConfig(ClipsConfig):
    """`reencoder-autoencoder evaluate`; configs/eval/autoencoder.yaml has the same values as these defaults."""

    source: Path = Field(Path("out/music/manifest.jsonl"), description="folder, list or manifest of audio")
    diagnostic_clips: int = Field(16, ge=0, le=10**6, description="clips whose latents are diagnosed; 0: none")
    diagnostic_seconds: float = Field(5.0, ge=0.25, le=3600, description="seconds of each that are diagnosed")
    out: Path | None = Field(None, description="null: out/eval/autoencoder/NAME/SPLIT")


class BaselineTrainConfig(Config):
    """`reencoder-eval train-baseline`: trains a baseline by its paper's recipe, at any size."""

    baseline: Literal["aero", "musichifi_bwe", "musichifi_m2s"]
    source: Path = Field(description="folder, list or manifest of audio; its train split is used")
    pcm: Path = Field(description="folder for the decoded music, about 635 MB an hour")
    out: Path = Field(description="run folder")
    channels: int | None = Field(
        None, ge=1, le=65_536, description="channels of the generator; default: the published number"
    )
    discriminator_filters: int | None = Field(None, ge=1, le=4_096, description="default: the published number")
    adversary_from: int = Field(0, ge=0, le=MOST_STEPS, description="steps before the discriminator takes part")
    steps: int = Field(ge=1, le=MOST_STEPS)
    batch_size: int = Field(16, ge=1, le=65_536)
    excerpt_seconds: float = Field(2.0, gt=0, le=600)
    seed: int = Field(0, ge=0, lt=2**63)
    valid_every: int = Field(
        500, ge=0, le=MOST_STEPS, description="steps between validations; 0: never, and the last weights are kept"
    )
    valid_excerpts: int = Field(24, ge=1, le=10**6)
    checkpoint_minutes: float = Field(4.0, gt=0, le=1e6)
    log_every: int = Field(10, ge=1, le=MOST_STEPS, description="steps averaged into a row of metrics.jsonl")
    tensorboard: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, le=MOST_THREADS, description="CPU threads; default: torch's choice")

    @field_validator("excerpt_seconds", "valid_excerpts")
    @classmethod
    def _fit_in_memory(cls, value: float, info: ValidationInfo) -> float:
        return require_excerpts(value, info)


class EvalConfig(ClipsConfig):
    """`reencoder-eval CONFIG`: the clips and the systems that process them."""

    autoencoder: str = Field(
        "house",
        description="house, weights on disk, a hub id, or package.module:function (imported and called); "
        "options follow a #",
    )
    resampler: Resampler | None = Field(  # type: ignore[assignment] - None is new here: it asks the modules
        None, description="resampler of the low band; null: that of the modules' training, soxr_vhq without modules"
    )
    modules: list[ModuleEntry] = Field([], description="trained modules; rows without a module are added by themselves")
    baselines: list[BaselineEntry] = Field(
        [], description="systems on raw audio, each run on undistorted audio and after the autoencoder"
    )
    external: list[ExternalEntry] = Field([], description="programs as further baselines")
    quality: list[Literal["zimtohrli", "visqol"]] = Field(
        [], description="models of hearing; they need pip install 'reencoder[perceptual]'"
    )
    task: Literal["bwe", "m2s"] = "bwe"
    out: Path

    @field_validator("modules", "external", "baselines")
    @classmethod
    def _names_differ(cls, entries: list[Any]) -> list[Any]:
        names = [entry.label or entry.name if isinstance(entry, BaselineEntry) else entry.label for entry in entries]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"labels name the rows of the tables and must differ; repeated: {', '.join(repeated)}")
        return entries
