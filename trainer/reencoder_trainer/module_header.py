"""Describes and checks the header of a module file, before anything is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from reencoder_pipeline.config import Resampler
from reencoder_pipeline.errors import CheckpointError, in_one_line
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.stores.foreign_tensors import first_of
from reencoder_pipeline.tasks import LOW_BAND_RATE, TASKS, StreamName, Task
from reencoder_trainer.module.latent_module import Output

WRITTEN = "use a file that reencoder-train or save_pretrained wrote"

Count = Annotated[int, Field(ge=1, le=2**40)]  # later compared with the tensors of the file
Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]  # safe to print


class _Strict(BaseModel):
    """No value is converted (neither true nor "1" is 1), unknown keys are errors, and instances do not change."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ConfigHeader(_Strict):
    """The arguments of LatentModule."""

    in_channels: Count
    out_channels: Count
    blocks: Annotated[int, Field(ge=1)]
    width: Count
    output: Output = "direct"
    condition_channels: Annotated[int, Field(ge=0, le=2**40)] = 0
    response_frames: Annotated[int, Field(ge=1, le=10**6)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.response_frames is not None and self.response_frames % 2 == 0:
            raise ValueError("response_frames is not odd")
        if self.output != "direct" and self.out_channels % self.in_channels:
            raise ValueError(f"{self.output}: out_channels are not a multiple of in_channels")
        if self.output in ("difference", "panning") and self.out_channels != 2 * self.in_channels:
            raise ValueError(f"{self.output}: out_channels are not twice in_channels")
        return self


class TaskHeader(_Strict):
    """Task: streams in, streams out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$")]
    inputs: Annotated[tuple[StreamName, ...], Field(min_length=1, max_length=5)]
    targets: Annotated[tuple[StreamName, ...], Field(min_length=1, max_length=5)]

    @model_validator(mode="after")
    def _is_the_task_of_that_name(self) -> Self:
        if len({*self.inputs, *self.targets}) < len(self.inputs) + len(self.targets):
            raise ValueError("a stream is named twice")
        if self.name in TASKS and TASKS[self.name] != self.task:
            raise ValueError(f"the streams are not those of {self.name}")
        return self

    @property
    def task(self) -> Task:
        return Task(self.name, inputs=self.inputs, targets=self.targets)


class SpecHeader(_Strict):
    """LatentSpec. The autoencoder's name is only text here; `shipped_name` decides whether it may be loaded."""

    autoencoder: Line
    weights: Line
    sample_rate: Annotated[int, Field(ge=1_000, le=1_000_000)]
    hop: Annotated[int, Field(ge=1, le=1_000_000)]
    channels: Annotated[int, Field(ge=1, le=1_000_000)]
    stereo: Annotated[str, Field(pattern="^(per_channel|joint)$")] = "per_channel"

    @property
    def spec(self) -> LatentSpec:
        return LatentSpec.from_dict(self.model_dump())


class LowBandHeader(_Strict):
    """LowBand; null if unknown (imported latents). Files of the first version lack it."""

    rate: Annotated[int, Field(ge=1_000, le=1_000_000)] | None = LOW_BAND_RATE
    resampler: Resampler | None = "soxr_vhq"


class ModuleHeader(_Strict):
    """The whole header except its digest. A new field needs a default, because earlier files lack it."""

    format: int
    config: ConfigHeader
    condition_blocks: Annotated[int, Field(ge=0)]
    condition_levels: bool = False  # absent from early files
    task: TaskHeader
    spec: SpecHeader
    low_band: LowBandHeader = LowBandHeader()
    window_frames: Annotated[int, Field(ge=1, le=10**9)] | None = None  # absent from early files
    training: dict[str, JsonValue]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for name, channels, streams in (
            ("in_channels", self.config.in_channels, self.task.inputs),
            ("out_channels", self.config.out_channels, self.task.targets),
        ):
            if channels != self.spec.channels * len(streams):
                raise ValueError(f"{name} {channels} is not {self.spec.channels} for each of {', '.join(streams)}")
        if (self.config.condition_channels > 0) != (self.condition_blocks > 0):
            raise ValueError("condition_blocks and condition_channels are not both 0 or both above 0")
        if self.condition_levels and not (self.condition_blocks and len(self.task.targets) == 2):
            raise ValueError("condition_levels needs a condition encoder and two targets")
        return self


def parse_header(text: str, path: Path) -> ModuleHeader:
    """The header of `path` from its JSON without the digest; CheckpointError names every malformed field."""
    try:
        return ModuleHeader.model_validate_json(text)
    except ValidationError as error:
        problems = [
            f"{in_one_line('.'.join(map(str, problem['loc']))) or 'header'}: {in_one_line(problem['msg'])}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    value = first_of(problems)
    raise CheckpointError("the header does not describe a module", where=path, value=value, remedy=WRITTEN)
