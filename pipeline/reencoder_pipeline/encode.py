"""A whole track into frames: equal segments with real context on both sides, so that no seam can be found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio import Audio, downmix, low_band
from reencoder_pipeline.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder

NOT_NUMBERS = "the autoencoder produced values that are not numbers"


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
        raise ConfigError(
            "a segment must be longer than twice the autoencoder's context",
            where="segment_seconds",
            value=f"{segment_frames} frames, context {context}",
        )


class Cutter:
    """Cuts audio that arrives in blocks into the segments of `plan_segments`, before its length is known.

    Every piece of audio fills its segment: the end of the track is padded with silence to a whole frame. What it holds
    is less than two segments and a block.
    """

    def __init__(self, *, hop: int, segment_frames: int, context: int) -> None:
        _require_room(segment_frames, context)
        self._hop, self._segment_frames, self._context = hop, segment_frames, context
        self._kept = self._first = 0  # frames that segments have covered; the frame that `_held` begins with
        self._held: Audio | None = None

    def add(self, audio: Audio) -> Iterator[tuple[Segment, Audio]]:
        """(channels, samples) -> segments that are certainly not the last, each with its (channels, samples)."""
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
        """The last segment; none where nothing was added."""
        if self._held is None:
            return
        num_frames = self._first - (-self._held.shape[1] // self._hop)
        start = max(0, min(self._start(), num_frames - self._segment_frames))
        audio = self._held[:, (start - self._first) * self._hop :]
        missing = (num_frames - start) * self._hop - audio.shape[1]
        yield Segment(start, num_frames, self._kept, num_frames), np.pad(audio, ((0, 0), (0, missing)))

    def _start(self) -> int:
        return max(0, self._kept - self._context)


def encode_stream(autoencoder: Autoencoder, audio: Audio, *, segment_frames: int) -> NDArray[np.float32]:
    """(1, samples), or (2, samples) for a joint autoencoder, at its rate -> (frames, channels) float32 posterior means.

    Segments are encoded one by one, as a build does with `batch_segments` 1.
    """
    spec = autoencoder.spec
    frames = np.empty((spec.num_frames(audio.shape[-1]), spec.channels), dtype=np.float32)
    for segment in plan_segments(len(frames), segment_frames=segment_frames, context=autoencoder.context):
        (latents,) = encode_batch(autoencoder, [audio[:, segment.start * spec.hop : segment.stop * spec.hop]], size=1)
        frames[segment.keep_start : segment.keep_stop] = kept_frames(segment, latents)
    if not np.isfinite(frames).all():
        raise AudioError(NOT_NUMBERS)
    return frames


def kept_frames(segment: Segment, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, C) of all of a segment -> without its context."""
    return latents[segment.keep_start - segment.start : segment.keep_stop - segment.start]


def encode_batch(autoencoder: Autoencoder, pieces: Sequence[Audio], *, size: int) -> NDArray[np.float32]:
    """At most `size` pieces (channels, samples), equally long -> (pieces, T, C).

    A matrix product rounds differently for another batch size (house, CPU: by 2e-7), and what a cache holds must not
    depend on how many segments happened to be there. So the batch always has `size` items; silence fills it up.
    """
    import torch

    batch = torch.zeros(size, *pieces[0].shape)
    for item, piece in zip(batch, pieces, strict=False):
        item.copy_(torch.from_numpy(piece))
    latents = autoencoder.encode(batch.to(_device(autoencoder)))[: len(pieces)]
    return latents.transpose(1, 2).float().cpu().numpy()  # (B, C, T) -> (B, T, C)


def _device(autoencoder: Autoencoder) -> Any:
    """Where its weights are; the CPU for one that holds no torch model by the name of `model`."""
    parameters = getattr(getattr(autoencoder, "model", None), "parameters", None)
    return next((parameter.device for parameter in parameters()), "cpu") if parameters else "cpu"


@lru_cache(maxsize=8)
def require_steady(autoencoder: Autoencoder, *, size: int, shape: tuple[int, int]) -> None:
    """ConfigError if what becomes of a piece (channels, samples) depends on its place in a batch of `size`.

    It does where the rows of a matrix product are not treated alike: of the house autoencoder on a CPU in batches of 2,
    not of 4 or 8. Tried out with noise, once a process; neighbours are tried on the way.
    """
    if size == 1:
        return
    noise = np.random.default_rng(0).standard_normal((size, *shape), dtype=np.float32)
    alike = encode_batch(autoencoder, [noise[0]] * size, size=size)
    mixed = encode_batch(autoencoder, [*noise], size=size)
    if not (alike == mixed[0]).all():
        raise ConfigError(
            f"{autoencoder.spec.autoencoder} rounds a segment's latents differently at another place in its batch",
            where="batch_segments",
            value=size,
            remedy="try another number; 1 always works",
        )


def make_stream(name: str, audio: Audio, *, sample_rate: int, low_band_rate: int, resampler: str) -> Audio:
    """One view of a track: (1 or 2, samples) -> (1, samples), or (2, samples) for `stereo`. A mono file is its own left
    and right."""
    if name == "low_band":
        return low_band(downmix(audio), sample_rate=sample_rate, low_rate=low_band_rate, resampler=resampler)
    return plain_stream(name, audio)


def plain_stream(name: str, audio: Audio) -> Audio:
    """Every stream but the low band: they are made sample by sample, and so block by block too."""
    if name == "mono":
        return downmix(audio)
    if name == "stereo":
        return audio if len(audio) == 2 else audio.repeat(2, axis=0)
    return audio[:1] if name == "left" else audio[-1:]
