"""Reads and writes latents as stable-audio-tools keeps them: a `.npy` (channels, frames) and a `.json` each.

Its reader needs two fields of the `.json`: `padding_mask`, a list with a 1 for each frame of music and then a 0 for
each frame of padding, and `seconds_total`; its conditioners also read `seconds_start`. `path`, `relpath`, `timestamps`
and `sample_rate` state the excerpt. An export adds one field, `reencoder`, that leads back to the cache.

The latents are the autoencoder's own: training divides them by a pretransform's `scale` later.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from reencoder_pipeline.cache.formats.npy import read_npy_header
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.safe_text import read_json, read_regular
from reencoder_pipeline.tasks import StreamName, TaskName

Frames = NDArray[Any]
LATENTS, FIELDS = ".npy", ".json"
OWN_FIELD = "reencoder"
UNKNOWN = "unknown"
_MOST_FIELDS_BYTES = 2**26  # a mask takes three bytes a frame, so this is six days of music
_MOST_HEADER_BYTES = 2**16


class Origin(BaseModel):
    """The origin of an item in a latent cache: `num_samples` of a track's `track_samples`, from `first_frame` on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    id: InstanceOf[str]  # a file's name, which need not be valid in any encoding
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
        """The id of the track, plus the first frame if it is an excerpt."""
        return self.id if self.whole else f"{self.id}#{self.first_frame}"


@dataclass(frozen=True)
class Fields:
    """The content of a `.json`: `num_frames` of the `length` frames in the `.npy` are music.

    `cut` is a digest of all fields that identify the excerpt and its recording. It is equal in all streams of an item.
    """

    length: int
    num_frames: int
    recording: str | None
    cut: str
    origin: Origin | None


def fields_of(origin: Origin, spec: LatentSpec, *, length: int) -> dict[str, Any]:
    """The content of the `.json` for latents (channels, length); frames after `num_samples` are padding."""
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
    """Read a `.json`. CacheError if it is missing, damaged or contradicts itself; OSError if it cannot be read."""
    remedy = "write the item again, or leave it out"
    values = read_json(path, kind=CacheError, what="item's .json file", limit=_MOST_FIELDS_BYTES)
    if not isinstance(values, dict):
        raise CacheError("the file is not a JSON object", where=path, value=type(values).__name__, remedy=remedy)
    try:
        origin = Origin.model_validate(values[OWN_FIELD]) if OWN_FIELD in values else None
    except ValidationError as error:
        problem = error.errors()[0]
        value = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        raise CacheError(f"the field `{OWN_FIELD}` is damaged", where=path, value=value, remedy=remedy) from None
    mask = values.get("padding_mask")
    if not isinstance(mask, list):
        what = "the file has no padding_mask, which tells padding from music"
        raise CacheError(what, where=path, value=str(mask)[:80], remedy="add it: a 1 for each frame of music")
    num_frames = mask.count(1)
    if not num_frames or mask.count(0) + num_frames != len(mask) or 0 in mask[:num_frames]:
        what = "the padding_mask does not consist of at least one 1, followed by zeros"
        value = f"{num_frames} ones among {len(mask)} values"
        raise CacheError(what, where=path, value=value, remedy=remedy)
    recording = next((values[key] for key in ("relpath", "path") if isinstance(values.get(key), str)), None)
    parts = [values.get(key) for key in ("relpath", "timestamps", "seconds_start", "seconds_total")]
    parts.append(origin.model_dump(exclude={"stream"}) if origin else None)
    cut = hashlib.sha256(json.dumps([*parts, len(mask), num_frames]).encode()).hexdigest()
    return Fields(len(mask), num_frames, origin.id if origin else recording, cut, origin)


def latents_bytes(frames: Frames, *, length: int) -> bytes:
    """Frames (frames, channels) -> the content of a `.npy` (channels, length), padded with zeros at the end."""
    padded = np.pad(frames, ((0, length - len(frames)), (0, 0)))
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(padded.T), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def read_latents(path: Path, *, channels: int, length: int) -> bytes:
    """Read a `.npy` file. CacheError if it is larger than (channels, length) numbers can be."""
    limit = channels * length * 8 + _MOST_HEADER_BYTES
    return read_regular(path, kind=CacheError, what=f"file of {length} frames of latents", limit=limit)


def frames_in(content: bytes, *, channels: int, fields: Fields, precision: str, where: Path) -> Frames:
    """A `.npy` (channels, length) -> its music, (frames, channels) in `precision`. CacheError if it is anything else.

    No pickle in the file is loaded, and no array larger than the file is allocated.
    """
    remedy = "write the item again, or leave it out"
    try:
        header = read_npy_header(content)
    except ValueError as error:
        raise CacheError("the file is not a .npy file", where=where, value=error, remedy=remedy) from None
    shape, dtype = header.shape, header.dtype
    if dtype.kind != "f" or dtype.itemsize > 8:
        what = "the file does not hold floating-point numbers, and discrete tokens are not latents"
        raise CacheError(what, where=where, value=str(dtype)[:80], remedy="save the latents as float16 or float32")
    if shape != (channels, fields.length):
        expected = f"({channels}, {fields.length})"
        what = f"the shape is not (channels, frames) = {expected}, from the autoencoder and the padding_mask"
        raise CacheError(what, where=where, value=str(shape)[:80], remedy="transpose the array, or correct the mask")
    if len(content) - header.length < math.prod(shape) * dtype.itemsize:
        raise CacheError("the file is truncated", where=where, value=f"{len(content)} bytes", remedy=remedy)
    values = np.frombuffer(content, dtype, count=math.prod(shape), offset=header.length)
    wide = values.reshape(shape, order="F" if header.fortran else "C")[:, : fields.num_frames].T  # (C, T) -> (T, C)
    if not np.isfinite(wide).all():
        raise CacheError("the file holds values that are not finite", where=where, remedy="encode the item again")
    with np.errstate(over="ignore"):
        frames = wide.astype(precision, order="C")
    if not np.isfinite(frames).all():
        what, remedy = f"the latents do not fit {precision}", "import with --set precision=float32"
        raise CacheError(what, where=where, value=np.abs(wide).max(), remedy=remedy)
    return frames
