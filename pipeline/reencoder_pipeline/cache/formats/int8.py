"""Stores latents in 8 bits with a scale for each track, stream and channel, so that tracks do not affect each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.cache.formats.compression import rounded

INT8, _SUFFIX = "int8", "_scale"
LARGEST = 127  # -128 is not used: the range is symmetric


def scale_of(frames: NDArray[Any]) -> NDArray[np.float32]:
    """(frames, channels) of a whole track -> (channels,): the value of a step. A channel of zeros has 1."""
    largest = np.abs(frames.astype(np.float32)).max(axis=0) / np.float32(LARGEST)
    return np.where(largest > 0, largest, np.float32(1))


def quantised(frames: NDArray[Any], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Frames rounded to the nearest step, halves to even, and clipped to the largest step."""
    steps = np.rint(frames.astype(np.float32) / scale)
    return np.clip(steps, -LARGEST, LARGEST).astype(np.int8)


def dequantised(values: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """(frames, channels) int8 -> float32."""
    return values * scale


def scale_name(stream: str) -> str:
    """The name of a stream's scales, (tracks, channels) float32, in a shard."""
    return f"{stream}{_SUFFIX}"


def is_scale(name: str) -> bool:
    return name.endswith(_SUFFIX)


def stored_names(streams: Iterable[str], precision: str) -> list[str]:
    """The arrays of a shard: its streams and, for int8, the scales of each."""
    return [name for stream in streams for name in ((stream, scale_name(stream)) if precision == INT8 else (stream,))]


def working_precision(precision: str) -> str:
    """The type of latents until a track is whole."""
    return "float32" if precision == INT8 else precision


def stored(
    streams: Mapping[str, NDArray[Any]], precision: str, *, keep_bits: int | None = None
) -> dict[str, NDArray[Any]]:
    """A whole track's (frames, channels) in the working precision -> the arrays that are stored of it.

    `keep_bits`: rounded to so many bits of mantissa; not with int8.
    """
    if precision != INT8:
        return {name: frames if keep_bits is None else rounded(frames, keep_bits) for name, frames in streams.items()}
    scales = {name: scale_of(frames) for name, frames in streams.items()}
    values = {name: quantised(frames, scales[name]) for name, frames in streams.items()}
    return values | {scale_name(name): scale[None] for name, scale in scales.items()}


def latents_of(arrays: Mapping[str, NDArray[Any]], stream: str) -> NDArray[Any]:
    """The stored arrays of a track -> the stream's latents, (frames, channels); of int8, float32."""
    scales = arrays.get(scale_name(stream))
    return arrays[stream] if scales is None else dequantised(arrays[stream], scales)
