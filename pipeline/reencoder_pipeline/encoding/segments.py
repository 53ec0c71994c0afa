"""Cuts a track into equal segments with real context on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

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


class Cutter:
    """Cuts audio that arrives in blocks into the segments of `plan_segments`, before its length is known.

    Every piece of audio fills its segment: the end of the track is padded with silence to a whole frame. Memory holds
    less than two segments and a block. ConfigError if segments are not longer than twice the context.
    """

    def __init__(self, *, hop: int, segment_frames: int, context: int) -> None:
        if segment_frames <= 2 * context:
            what = "a segment is not longer than twice the autoencoder's context"
            value, remedy = f"{segment_frames} frames, context {context}", "choose a longer segment_seconds"
            raise ConfigError(what, where="segment_seconds", value=value, remedy=remedy)
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


def plan_segments(num_frames: int, *, segment_frames: int, context: int) -> list[Segment]:
    """Cover a track with segments of exactly `segment_frames` (a shorter track is one segment).

    A kept frame lies at least `context` frames from the edge of its segment, unless that edge is the track's own. The
    last segment starts earlier to end with the track; padding instead would change what a convolution sees.
    """
    cutter = Cutter(hop=1, segment_frames=segment_frames, context=context)
    cuts = chain(cutter.add(np.zeros((1, num_frames), np.float32)), cutter.finish())
    return [segment for segment, _ in cuts]
