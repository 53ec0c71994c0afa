"""Cuts a track into equal segments with real context on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reencoder_pipeline.audio.resampling import Audio
from reencoder_pipeline.errors import ConfigError


@dataclass(frozen=True)
class Segment:
    """Frames [start, stop) are encoded together; only [keep_start, keep_stop) are kept, the rest is context."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_segments(num_frames: int, *, segment_frames: int, context: int) -> Iterator[Segment]:
    """Cover a track with segments of exactly `segment_frames` (a shorter track is one segment).

    A kept frame lies at least `context` frames from the edge of its segment, unless that edge is the track's own. The
    last segment starts earlier to end with the track; padding instead would change what a convolution sees.
    """
    _require_room(segment_frames, context)
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


def _require_room(segment_frames: int, context: int) -> None:
    if segment_frames <= 2 * context:
        what = "a segment is not longer than twice the autoencoder's context"
        value, remedy = f"{segment_frames} frames, context {context}", "choose a longer segment_seconds"
        raise ConfigError(what, where="segment_seconds", value=value, remedy=remedy)


class Cutter:
    """Cuts audio that arrives in blocks into the segments of `plan_segments`, before its length is known.

    Every piece of audio fills its segment: the end of the track is padded with silence to a whole frame. Memory holds
    less than two segments and a block.
    """

    def __init__(self, *, hop: int, segment_frames: int, context: int) -> None:
        _require_room(segment_frames, context)
        self._hop, self._segment_frames, self._context = hop, segment_frames, context
        self._kept = self._first = 0  # frames covered by segments so far; the first frame in `_held`
        self._held: Audio | None = None

    def add(self, audio: Audio) -> Iterator[tuple[Segment, Audio]]:
        """(channels, samples) -> segments that cannot be the last one, each with its (channels, samples)."""
        self._held = audio if self._held is None else np.concatenate([self._held, audio], axis=1)
        # The segment at the track's end may reach back to here.
        while self._first * self._hop + self._held.shape[1] > self._hop * (
            stop := self._start() + self._segment_frames
        ):
            segment = Segment(self._start(), stop, self._kept, stop - self._context)
            self._held, self._first = self._held[:, (segment.start - self._first) * self._hop :], segment.start
            yield segment, self._held[:, : self._segment_frames * self._hop].copy()
            self._kept = segment.keep_stop

    def finish(self) -> Iterator[tuple[Segment, Audio]]:
        """The last segment; none if nothing was added."""
        if self._held is None:
            return
        num_frames = self._first - (-self._held.shape[1] // self._hop)
        start = max(0, min(self._start(), num_frames - self._segment_frames))
        audio = self._held[:, (start - self._first) * self._hop :]
        missing = (num_frames - start) * self._hop - audio.shape[1]
        yield Segment(start, num_frames, self._kept, num_frames), np.pad(audio, ((0, 0), (0, missing)))

    def _start(self) -> int:
        return max(0, self._kept - self._context)
