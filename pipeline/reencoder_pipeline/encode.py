"""A whole track into frames: equal segments with real context on both sides, so that no seam can be found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio import Audio, downmix, low_band
from reencoder_pipeline.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


@dataclass(frozen=True)
class Segment:
    """Frames [start, stop) are encoded together; only [keep_start, keep_stop) are used, the rest was context."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_segments(num_frames: int, *, segment_frames: int, context: int) -> Iterator[Segment]:
    """Cover a track with segments of exactly `segment_frames` (a shorter track is one segment).

    A kept frame lies at least `context` frames from the edge of its segment, unless that edge is the track's own. The
    last segment is moved back to end with the track instead of being padded: padding corrupts what a convolution sees.
    """
    if segment_frames <= 2 * context:
        raise ConfigError(
            "a segment must be longer than twice the autoencoder's context",
            where="segment_seconds",
            value=f"{segment_frames} frames, context {context}",
        )
    if num_frames <= segment_frames:
        yield Segment(0, num_frames, 0, num_frames)
        return
    kept = 0
    while kept < num_frames:
        start = min(max(0, kept - context), num_frames - segment_frames)
        stop = start + segment_frames
        keep_stop = num_frames if stop == num_frames else stop - context
        yield Segment(start, stop, kept, keep_stop)
        kept = keep_stop


def encode_stream(autoencoder: Autoencoder, audio: Audio, *, segment_frames: int) -> NDArray[np.float32]:
    """(1, samples), or (2, samples) for a joint autoencoder, at its rate -> (frames, channels) float32 posterior means.

    Segments are encoded one by one: a batched matrix product rounds differently for another batch size, and what a
    cache holds must not depend on that.
    """
    import torch

    spec = autoencoder.spec
    num_frames = spec.num_frames(audio.shape[-1])
    frames = np.empty((num_frames, spec.channels), dtype=np.float32)
    for segment in plan_segments(num_frames, segment_frames=segment_frames, context=autoencoder.context):
        piece = torch.from_numpy(audio[None, :, segment.start * spec.hop : segment.stop * spec.hop])
        latents = autoencoder.encode(piece)[0].T  # (1, C, T) -> (T, C)
        kept = latents[segment.keep_start - segment.start : segment.keep_stop - segment.start]
        frames[segment.keep_start : segment.keep_stop] = kept.float().cpu().numpy()
    if not np.isfinite(frames).all():
        raise AudioError("the autoencoder produced values that are not numbers")
    return frames


def make_stream(name: str, audio: Audio, *, sample_rate: int, low_band_rate: int, resampler: str) -> Audio:
    """One view of a track: (1 or 2, samples) -> (1, samples), or (2, samples) for `stereo`. A mono file is its own left
    and right."""
    if name == "mono":
        return downmix(audio)
    if name == "low_band":
        return low_band(downmix(audio), sample_rate=sample_rate, low_rate=low_band_rate, resampler=resampler)
    if name == "stereo":
        return audio if len(audio) == 2 else audio.repeat(2, axis=0)
    return audio[:1] if name == "left" else audio[-1:]
