"""Reads the files of an evaluation's folder and checks that they have the form in which an evaluation writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reencoder_eval.evaluation_folder import COSTS, FAILURES, LATENT_SCORES, RUN, SCORES, read_json, read_rows
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.tasks import LOW_BAND_RATE

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]  # far beyond any measured value


class _Part(BaseModel):
    """All fields must exist with their types; further fields are allowed."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Score(_Part):
    clip: str
    track: str
    system: str
    label: str
    key: str
    scores: dict[str, Number | None]


class _Failure(_Part):
    where: str
    what: str
    found: str


class _Count(_Part):
    gflops: Number | None
    note: str | None = None
    parameters: int | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.gflops is not None and self.parameters is None:
            raise ValueError("gflops without parameters")
        return self


class _Cost(_Part):
    label: str
    trained: bool
    stages: list[Literal["encode", "decode"]]
    module: _Count | None
    times_real_time: Number | None
    peak_bytes: int | None = None


class _Passes(_Part):
    encode: _Count
    decode: _Count


class _Costs(_Part):
    digests: dict[str, str] = {}
    machine: str
    autoencoder: _Passes
    systems: dict[str, _Cost]


class _Latents(_Part):
    frechet: dict[str, Number | None]
    frames: int
    clips: int


class _System(_Part):
    label: str
    about: str


class _Clip(_Part):
    id: str


class _Autoencoder(_Part):
    autoencoder: str
    channels: int
    hop: int
    sample_rate: int = Field(gt=0)


class _Run(_Part):
    title: str
    split: str | None
    clip_seconds: Number
    sample_rate: int = Field(gt=0)
    autoencoder: _Autoencoder
    resampler: str
    low_rate: Annotated[int, Field(ge=1_000, le=1_000_000)] = LOW_BAND_RATE  # absent from early runs
    systems: list[_System]
    clips: list[_Clip]
    listening: list[str]
    silent: list[Any]
    near_mono: list[Any]
    too_short: list[str]


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Rows of scores.jsonl, or of the journal of an unfinished run; none if the file is absent."""
    return [_checked(row, _Score, where=f"{path}: row {number}") for number, row in enumerate(read_rows(path), 1)]


def finished_scores(run: Path) -> list[dict[str, Any]]:
    """Rows of scores.jsonl. EvaluationError if the evaluation in this folder is not finished."""
    if rows := read_scores(run / SCORES):
        return rows
    raise EvaluationError("there are no scores", where=run / SCORES, remedy="run the evaluation to its end first")


def read_failures(run: Path) -> list[dict[str, Any]]:
    path = run / FAILURES
    return [_checked(row, _Failure, where=f"{path}: row {number}") for number, row in enumerate(read_rows(path), 1)]


def costs_of(run: Path) -> dict[str, Any] | None:
    return _checked(read_json(run / COSTS), _Costs, where=run / COSTS)


def latent_scores_of(run: Path) -> dict[str, Any] | None:
    return _checked(read_json(run / LATENT_SCORES), _Latents, where=run / LATENT_SCORES)


def description_of(run: Path) -> dict[str, Any]:
    """The contents of run.json. EvaluationError if it is absent."""
    found = _checked(read_json(run / RUN), _Run, where=run / RUN)
    if found is None:
        raise EvaluationError("the folder is not that of an evaluation", where=run, remedy="run reencoder-eval CONFIG")
    return found


def _checked(values: Any, kind: type[BaseModel], *, where: object) -> Any:
    if values is None:
        return None
    try:
        kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise EvaluationError(
            "the file does not have the form of an evaluation's: it is damaged or from another program", where=where,
            value=f"{place[:100]}: {first['msg'][:200]}", remedy="move it away and evaluate again",
        ) from None  # fmt: skip
    return values
