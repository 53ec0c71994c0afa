"""Latents in 8 bits: a scale per track, stream and channel, so that what a track is stored as depends on it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

INT8, _SUFFIX = "int8", "_scale"
LARGEST = 127  # -128 is not used: the range is symmetric


def scale_of(frames: NDArray[Any]) -> NDArray[np.float32]:
    """(frames, channels) of a whole track -> (channels,): what 1 stands for. A channel that is all zero has 1."""
    largest = np.abs(frames.astype(np.float32)).max(axis=0) / np.float32(LARGEST)
    return np.where(largest > 0, largest, np.float32(1))


def quantised(frames: NDArray[Any], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Rounded to the nearest step, halves to even; what lies beyond the largest is clipped to it."""
    steps = np.rint(frames.astype(np.float32) / scale)
    return np.clip(steps, -LARGEST, LARGEST).astype(np.int8)


def dequantised(values: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """(frames, channels) int8 -> float32."""
    return values * scale


def scale_name(stream: str) -> str:
    """What a stream's scales, (tracks, channels) float32, are called beside it in a shard."""
    return f"{stream}{_SUFFIX}"


def is_scale(name: str) -> bool:
    return name.endswith(_SUFFIX)


def stored_names(streams: Iterable[str], precision: str) -> list[str]:
    """The arrays of a shard: its streams and, of int8, the scales of each."""
    return [name for stream in streams for name in ((stream, scale_name(stream)) if precision == INT8 else (stream,))]


def working_precision(precision: str) -> str:
    """What latents are kept in until a track is whole."""
    return "float32" if precision == INT8 else precision


def stored(streams: Mapping[str, NDArray[Any]], precision: str) -> dict[str, NDArray[Any]]:
    """A whole track's (frames, channels) in the working precision -> the arrays that are stored of it."""
    if precision != INT8:
        return dict(streams)
    scales = {name: scale_of(frames) for name, frames in streams.items()}
    values = {name: quantised(frames, scales[name]) for name, frames in streams.items()}
    return values | {scale_name(name): scale[None] for name, scale in scales.items()}


def latents_of(arrays: Mapping[str, NDArray[Any]], stream: str, *, lengths: Sequence[int] = ()) -> NDArray[Any]:
    """The stored arrays of a track, or of tracks of these lengths end to end -> the stream's latents, not int8."""
    scales = arrays.get(scale_name(stream))
    if scales is None:
        return arrays[stream]
    return dequantised(arrays[stream], np.repeat(scales, lengths, axis=0) if len(lengths) else scales)
