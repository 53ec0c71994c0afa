"""Configuration: YAML -> pydantic, every problem listed at once, each with a "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from reencoder_pipeline.errors import ConfigError, shown
from reencoder_pipeline.safe_text import LARGEST_CONFIG, names_a_file, parse_yaml, read_text
from reencoder_pipeline.tasks import LOW_BAND_RATE, StreamName, TaskName


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values are checked, instances do not change.

    Every number has bounds that no sensible use meets: what is beyond them would run out of memory, or never end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


MOST_STEPS = 10**10
MOST_THREADS = 1_024
MOST_PARAMETERS = 10**10  # 40 GB
MOST_AUDIO_SECONDS = 10**5  # at once in memory: 18 GB of one channel
Resampler = Literal["soxr_vhq", "torchaudio_kaiser_best", "torchaudio_default"]


MANTISSA_BITS = {"float16": 10, "float32": 23}
MOST_LEVEL = {"zstd": 19, "blosc": 9}


class CacheConfig(Config):
    """`reencoder-cache build`: how a corpus becomes a latent cache."""

    autoencoder: str = Field(
        "house",
        description="house, a folder or file of weights, a hub id, or package.module:function, which is imported and "
        "called; then [#key=value,...]",
    )
    streams: list[StreamName] = Field(["mono", "low_band", "left", "right"], min_length=1)
    format: Literal["zarr", "webdataset"] = "zarr"
    precision: Literal["float16", "float32", "int8"] = Field(
        "float16", description="int8: a scale per track, stream and channel; half of float16's bytes"
    )
    compression: Literal["none", "zstd", "blosc"] = Field(
        "none",
        description="of Zarr shards, for archives and object storage; blosc: zstd behind bitshuffle. Compressed shards "
        "are decoded into memory when they are opened, not mapped",
    )
    compression_level: int | None = Field(
        None, ge=1, le=19, description="zstd: 1 to 19, default 3; blosc: 1 to 9, default 5"
    )
    keep_bits: int | None = Field(
        None,
        ge=1,
        le=22,
        description="round latents to so many bits of mantissa before they are compressed; float16 has 10, float32 23",
    )
    shard_frames: int = Field(
        65_536,
        ge=1_024,
        le=10**8,
        description="about so many a shard; it closes at a track between half and twice as many",
    )
    segment_seconds: float = Field(12.0, gt=0, le=3600, description="audio encoded at once, context included")
    batch_segments: int = Field(
        1,
        ge=1,
        le=4_096,
        description="segments encoded at once, of any tracks; 1 is fastest on a CPU, a GPU wants more",
    )
    low_band_rate: int = Field(
        LOW_BAND_RATE, ge=1_000, le=768_000, description="sample rate that the low_band stream is reduced to"
    )
    resampler: Resampler = "soxr_vhq"
    tasks: Literal["measured"] | list[TaskName] = Field(
        "measured",
        description="which tasks a track serves: by its bandwidth and width, or as listed here for every track",
    )
    hours: float | None = Field(
        None, gt=0, le=1e7, description="take only so much of the corpus, of every split its share"
    )
    track_seconds: float | None = Field(
        None, ge=0.01, le=1e6, description="of every track at most so much, from its middle: many tracks in little time"
    )
    workers: int | None = Field(
        None, ge=1, le=MOST_THREADS, description="processes; default: one a core; contents do not depend on it"
    )
    valid_share: float = Field(0.05, ge=0, lt=1, description="share of tracks for validation where no split is given")
    test_share: float = Field(0.10, ge=0, lt=1, description="share of tracks for testing where no split is given")

    @field_validator("streams")
    @classmethod
    def _each_once(cls, streams: list[StreamName]) -> list[StreamName]:
        if len(set(streams)) < len(streams):
            raise ValueError("a stream is named twice")
        return streams

    @model_validator(mode="after")
    def _compression_fits(self) -> Self:
        if self.compression == "none":
            if self.compression_level is not None or self.keep_bits is not None:
                raise ValueError("compression_level and keep_bits need a compression: zstd or blosc")
            return self
        if self.format != "zarr":
            raise ValueError("the webdataset format has no compression: choose format zarr, or compression none")
        if (self.compression_level or 1) > MOST_LEVEL[self.compression]:
            raise ValueError(f"compression_level of {self.compression} is 1 to {MOST_LEVEL[self.compression]}")
        if self.keep_bits is not None and self.keep_bits >= MANTISSA_BITS.get(self.precision, 0):
            raise ValueError(
                "keep_bits rounds mantissas: fewer bits than float16 (10) or float32 (23) has; int8 has none"
            )
        return self


def require_parameters(number: int) -> None:
    """ValueError, for validators, beyond what a machine holds."""
    if number > MOST_PARAMETERS:
        raise ValueError(f"makes a model of over {MOST_PARAMETERS:.0e} parameters")


def require_seconds(seconds: float, *, most: float) -> None:
    """ValueError, for validators, where so much at once would not fit in memory."""
    if seconds > most:
        raise ValueError(f"{seconds:.3g} s would be in memory at once; at most {most:.0e} s may be")


def require_excerpts(value: float, info: ValidationInfo) -> float:
    """For `excerpt_seconds`, after `batch_size`, and for `valid_excerpts`, which are in memory all at once."""
    known = "batch_size" if info.field_name == "excerpt_seconds" else "excerpt_seconds"
    require_seconds(value * info.data.get(known, 1), most=MOST_AUDIO_SECONDS)
    return value


ConfigType = TypeVar("ConfigType", bound=BaseModel)
MOST_PROBLEMS = 50  # that a message lists
REMOVED = {"lease": "leave it out: one build at a time writes into a folder, and --part 3/16 shares the work"}


def load_config(path: Path | None, kind: type[ConfigType], overrides: Sequence[str] = ()) -> ConfigType:
    """Read `path` (None: defaults), apply `key.subkey=value` overrides, validate; ConfigError lists all problems.

    Example::

        config = load_config(None, CacheConfig, ["streams=[mono,low_band]", "hours=5"])
    """
    values = {} if path is None else read_yaml(path)
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        listed: set[Any] = set()
        problems = "\n".join(f"  - {_explain(problem, kind, listed)}" for problem in error.errors()[:MOST_PROBLEMS])
        if error.error_count() > MOST_PROBLEMS:
            problems += f"\n  - and {error.error_count() - MOST_PROBLEMS} more"
        raise ConfigError(f"{error.error_count()} problem(s) in the configuration\n{problems}", where=path) from None


def read_yaml(path: Path) -> dict[str, Any]:
    if not names_a_file(path):
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        remedy = (
            f"did you mean {path.parent / near[0]}?" if near else "give the path of a YAML file; configs/ has examples"
        )
        raise ConfigError("no such configuration file", where=path, remedy=remedy)
    text = read_text(path, kind=ConfigError, what="configuration file", limit=LARGEST_CONFIG)
    values = parse_yaml(text, kind=ConfigError, where=path, what="configuration file")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            "a configuration is a mapping of keys to values", where=path, value=type(values).__name__,
            remedy="write lines of the form `key: value`; configs/ has examples",
        )  # fmt: skip
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError("an override reads key=value", where="--set", value=override, remedy="such as: --set seed=1")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(
                f"{parent} is not a group of settings", where="--set", value=override,
                remedy=f"set it as a whole: --set {parent}=VALUE",
            )  # fmt: skip
    values[last] = parse_yaml(text, kind=ConfigError, where=f"--set {shown(override, limit=200)}", what="value")


def _explain(problem: Any, kind: type[BaseModel], listed: set[Any]) -> str:
    """`listed` collects the groups whose settings a message has listed: each is listed once."""
    location = shown(".".join(str(part) for part in problem["loc"]), limit=200)
    if problem["type"] != "extra_forbidden":
        found = shown(problem["input"], limit=200, quoted=True)
        place = f"{location}: " if location else ""
        return f"{place}{problem['msg'].removeprefix('Value error, ')} (found {found})"
    *group, name = problem["loc"]
    names = list(_field_names(kind, group))
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = REMOVED.get(location) or (f"did you mean {near[0]}?" if near else "")
    if not hint and tuple(group) not in listed:
        listed.add(tuple(group))
        hint = f"known here: {', '.join(names)}"
    return f"{location}: unknown setting" + (f"; {hint}" if hint else "")


def _field_names(kind: type[BaseModel], location: Sequence[Any]) -> Iterator[str]:
    for part in location:
        if part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
            for candidate in (annotation, *get_args(annotation)):
                if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                    kind = candidate
    yield from kind.model_fields
