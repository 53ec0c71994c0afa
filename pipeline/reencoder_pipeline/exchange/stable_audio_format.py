"""Latents as stable-audio-tools keeps them: an item is a `.npy` (channels, frames) and a `.json` of the same name.

What its reader asks of the `.json`: `padding_mask`, a list with a 1 for each frame of music and a 0 for each frame of
the padding behind it, and `seconds_total`; its conditioners also read `seconds_start`. `path`, `relpath`, `timestamps`
and `sample_rate` say where an item was cut from. Ours adds one field, `reencoder`, that leads back to the cache.

Its latents are those of the autoencoder itself: training divides them by a pretransform's `scale` later.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import StreamName, TaskName

Frames = NDArray[Any]
LATENTS, FIELDS = ".npy", ".json"
OWN_FIELD = "reencoder"
UNKNOWN = "unknown"
_MOST_FIELDS_BYTES = 2**26  # a mask takes three bytes a frame, so this is six days of music
_MOST_HEADER_BYTES = 2**16


class Origin(BaseModel):
    """Where an item comes from in a latent cache: `num_samples` of a track's `track_samples`, from `first_frame` on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    id: InstanceOf[str]  # a file's name, which need not be text in any encoding
    sha256: str = Field(pattern=rf"^([0-9a-f]{{64}}|{UNKNOWN})$")
    split: Literal["train", "valid", "test"]
    stream: StreamName
    latent_spec: str
    tasks: list[TaskName]
    bandwidth_hz: float | None
    side_mid_db: float | None
    first_frame: int = Field(ge=0)
    num_samples: int = Field(ge=1)
    track_samples: int = Field(ge=1)

    @property
    def whole(self) -> bool:
        return self.num_samples == self.track_samples

    @property
    def name(self) -> str:
        """The id of the track, and of an excerpt also where it begins."""
        return self.id if self.whole else f"{self.id}#{self.first_frame}"


@dataclass(frozen=True)
class Fields:
    """What is read of a `.json`: `num_frames` of the `length` frames in the `.npy` are music.

    `cut` is a digest of everything that says which excerpt of which recording it is. Files of several streams that
    belong together agree in it.
    """

    length: int
    num_frames: int
    recording: str | None
    cut: str
    origin: Origin | None


def fields_of(origin: Origin, spec: LatentSpec, *, length: int) -> dict[str, Any]:
    """The content of the `.json` beside (channels, length) latents; what lies behind `num_samples` is padding."""
    first = spec.num_samples(origin.first_frame)
    last = min(first + spec.num_samples(length), origin.track_samples)
    num_frames = spec.num_frames(origin.num_samples)
    return {
        "path": origin.id,
        "relpath": origin.id,
        "timestamps": [first / origin.track_samples, last / origin.track_samples],
        "seconds_start": first // spec.sample_rate,
        "seconds_total": -(-origin.track_samples // spec.sample_rate),
        "padding_mask": [1] * num_frames + [0] * (length - num_frames),
        "sample_rate": spec.sample_rate,
        OWN_FIELD: origin.model_dump(),
    }


def read_fields(path: Path) -> Fields:
    """CacheError if it is missing or says something that cannot be true; OSError if it cannot be read."""
    if not path.is_file():
        raise CacheError("an item has no fields beside it", where=path)
    if path.stat().st_size > _MOST_FIELDS_BYTES:
        raise CacheError("is too large for an item's fields", where=path, value=f"{path.stat().st_size} bytes")
    try:
        values = dict(json.loads(path.read_bytes()))
        origin = Origin.model_validate(values[OWN_FIELD]) if OWN_FIELD in values else None
    except ValidationError as error:
        problem = error.errors()[0]
        value = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        raise CacheError(f"the field `{OWN_FIELD}` is damaged", where=path, value=value) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise CacheError("is not a JSON object", where=path, value=str(error)[:200]) from None
    mask = values.get("padding_mask")
    if not isinstance(mask, list):
        remedy = "without it, padding cannot be told from music"
        raise CacheError("has no padding_mask", where=path, value=str(mask)[:80], remedy=remedy)
    num_frames = mask.count(1)
    if not num_frames or mask.count(0) + num_frames != len(mask) or 0 in mask[:num_frames]:
        what = "a padding_mask is ones, at least one, and then zeros"
        raise CacheError(what, where=path, value=f"{num_frames} ones among {len(mask)} values")
    recording = next((values[key] for key in ("relpath", "path") if isinstance(values.get(key), str)), None)
    parts = [values.get(key) for key in ("relpath", "timestamps", "seconds_start", "seconds_total")]
    parts.append(origin.model_dump(exclude={"stream"}) if origin else None)
    cut = hashlib.sha256(json.dumps([*parts, len(mask), num_frames]).encode()).hexdigest()
    return Fields(len(mask), num_frames, origin.id if origin else recording, cut, origin)


def latents_bytes(frames: Frames, *, length: int) -> bytes:
    """(frames, channels) as the content of a `.npy` (channels, length), padded with zeros at the end."""
    padded = np.pad(frames, ((0, length - len(frames)), (0, 0)))
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(padded.T), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def read_latents(path: Path, *, channels: int, length: int) -> bytes:
    """The file's content. CacheError if it is larger than (channels, length) numbers can be, before it is read."""
    if not path.is_file():
        raise CacheError("is missing", where=path)
    size = path.stat().st_size
    if size > channels * length * 8 + _MOST_HEADER_BYTES:
        what = f"is larger than {length} frames of {channels} channels"
        raise CacheError(what, where=path, value=f"{size} bytes")
    return path.read_bytes()


def frames_in(content: bytes, *, channels: int, fields: Fields, precision: str, where: Path) -> Frames:
    """A `.npy` (channels, length) -> its music, (frames, channels) in `precision`. CacheError if it is anything else.

    Nothing in the file is run or believed: no pickles, and no array larger than the file.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    # numpy parses a header as Python text, with Python's own errors for a damaged one.
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise CacheError("is not a .npy file", where=where, value=str(error)[:200]) from None
    if dtype.kind != "f" or dtype.itemsize > 8:
        remedy = "discrete tokens are not latents" if dtype.kind in "iu" else None
        raise CacheError("is not made of floating-point numbers", where=where, value=str(dtype)[:80], remedy=remedy)
    if shape != (channels, fields.length):
        what = f"is not (channels, frames) = ({channels}, {fields.length}), by the autoencoder and the padding_mask"
        raise CacheError(what, where=where, value=str(shape)[:80])
    if len(content) - file.tell() < math.prod(shape) * dtype.itemsize:
        raise CacheError("is cut short", where=where, value=f"{len(content)} bytes")
    values = np.frombuffer(content, dtype, count=math.prod(shape), offset=file.tell())
    wide = values.reshape(shape, order="F" if fortran else "C")[:, : fields.num_frames].T  # (C, T) -> (T, C)
    if not np.isfinite(wide).all():
        raise CacheError("holds values that are not finite", where=where)
    with np.errstate(over="ignore"):
        frames = wide.astype(precision, order="C")
    if not np.isfinite(frames).all():
        remedy = "import with --set precision=float32"
        raise CacheError(f"latents do not fit {precision}", where=where, value=np.abs(wide).max(), remedy=remedy)
    return frames
