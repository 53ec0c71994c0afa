"""The fields of an index and of a commit record, with the type and the bounds of each."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, InstanceOf
from typing_extensions import TypedDict

from reencoder_pipeline.cache.formats.compression import Codec
from reencoder_pipeline.tasks import StreamName

Text = InstanceOf[str]  # the name of a file need not be text in any encoding
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=2**48)]
Place = Annotated[int, Field(ge=0, le=2**48)]
Checksum = Annotated[int, Field(ge=0, lt=2**32)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
LAX = Field(strict=False)  # a list may be a tuple, which JSON does not know; what is in it is strict
Numbers = Annotated[list[float], LAX]
Deviations = Annotated[list[Annotated[float, Field(ge=0)]], LAX]
Words = Annotated[list[Word], LAX]


class _Strict(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # type: ignore[misc]


class TrackFields(_Strict):
    """`CachedTrack` as JSON."""

    id: Text
    split: Literal["train", "valid", "test"]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64}|unknown)$")]
    num_samples: Count
    num_frames: Count
    tasks: Words
    bandwidth_hz: Annotated[float, Field(ge=0)] | None
    side_mid_db: float | None
    first_frame: Place
    shard: Key
    level_db: NotRequired[float | None]
    peak_db: NotRequired[float | None]


class ShardFields(_Strict):
    """`Shard` as JSON."""

    key: Key
    num_frames: Place
    tracks: Annotated[list[TrackFields], LAX]
    files: dict[str, Annotated[tuple[Place, Digest], LAX]]
    blocks: dict[str, Annotated[list[Checksum], LAX]]


class SpecFields(_Strict):
    """`LatentSpec` as JSON."""

    autoencoder: Text
    weights: Text
    sample_rate: Annotated[int, Field(ge=1, le=10_000_000)]
    hop: Annotated[int, Field(ge=1, le=10_000_000)]
    channels: Annotated[int, Field(ge=1, le=1_000_000)]
    stereo: Literal["per_channel", "joint"]


class LowBandFields(_Strict):
    """How the stream `low_band` was made; "unknown" for imported latents."""

    rate: Annotated[int, Field(ge=1, le=10_000_000)] | Literal["unknown"]
    resampler: Annotated[str, Field(max_length=200)]


class StatisticsFields(_Strict):
    """`Statistics` as JSON."""

    mean: Numbers
    std: Deviations


class SumsFields(_Strict):
    """`Sums` as JSON."""

    count: Place
    total: Numbers
    squares: Deviations


class TaskSumsFields(_Strict):
    """The sums over the tracks that serve exactly these tasks."""

    tasks: Words
    streams: dict[StreamName, SumsFields]


class CompressionFields(_Strict):
    """`Compression` as JSON."""

    codec: Codec
    level: Annotated[int, Field(ge=1)]


class IndexFields(_Strict):
    """index.json without its digest."""

    format: str
    storage: Literal["zarr", "webdataset"]
    precision: Literal["float16", "float32", "int8"]
    compression: NotRequired[CompressionFields]
    keep_bits: NotRequired[Annotated[int, Field(ge=1)]]
    notes: NotRequired[list[Text]]
    spec: SpecFields
    streams: Annotated[list[StreamName], Field(min_length=1, strict=False)]
    low_band: LowBandFields
    statistics: dict[StreamName, StatisticsFields]
    sums: NotRequired[list[TaskSumsFields]]
    shards: list[ShardFields]


class RecordFields(_Strict):
    """A commit record without its digest."""

    shard: ShardFields
    sums: dict[Text, dict[StreamName, SumsFields]]
    failures: Annotated[list[dict[Text, Text]], LAX]
    retry: bool
    recipes: NotRequired[Words]
