"""Describes clips and reads their audio, with half a second of the track on either side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from reencoder_pipeline.audio.read import audio_header, open_track
from reencoder_pipeline.audio.resampling import Audio, resample
from reencoder_pipeline.encoding.stream_pieces import make_stream
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.tasks import LOW_BAND_RATE, Task

FULL_BAND_RATE = 44_100  # a track below this rate has no high band to be compared with


@dataclass(frozen=True)
class Clip:
    """An excerpt of a track: `num_samples` samples from `start`, at the file's own rate."""

    track: str
    path: Path
    start: int
    num_samples: int
    sample_rate: int
    licence: str | None = None

    @property
    def id(self) -> str:
        return f"{self.track} at {self.start / self.sample_rate:.3f} s"


@dataclass(frozen=True)
class ClipAudio:
    """The streams of one clip that a task needs, float32 (margin + samples + margin,) each at the autoencoder's rate.

    The margins are the track's audio before and after the clip. Without them the cut is a click that fills the high
    band: a module answered with bursts, and 98 % of a clip's error lay in its last 20 ms.
    """

    clip: Clip
    sample_rate: int
    streams: dict[str, np.ndarray]
    margin: int = 0

    @property
    def digest(self) -> str:
        """sha256 of the audio; it changes only with file, excerpt, rate and resampler."""
        digest = hashlib.sha256(str(self.sample_rate).encode())
        for name in sorted(self.streams):
            digest.update(name.encode() + self.streams[name].tobytes())
        return digest.hexdigest()

    @property
    def length(self) -> int:
        """Samples including the margins."""
        return len(next(iter(self.streams.values())))

    def stack(self, names: Sequence[str]) -> np.ndarray:
        """(len(names), samples): these streams without margins."""
        return self.without_margins(np.stack([self.streams[name] for name in names]))

    def without_margins(self, audio: np.ndarray) -> np.ndarray:
        """(N, at least margin + samples) -> (N, samples)."""
        return audio[:, self.margin : self.margin + self.length - 2 * self.margin]


def load_clip(clip: Clip, *, task: Task, sample_rate: int, resampler: str, low_rate: int = LOW_BAND_RATE) -> ClipAudio:
    """Read the clip and half a second on either side, resample to `sample_rate`, and make the task's streams.

    `low_rate` and `resampler` make the low band. Beyond the ends of the track the margins are silent.
    """
    audio = _read_with_margins(clip, clip.sample_rate // 2)
    if clip.sample_rate != sample_rate:
        audio = resample(audio, clip.sample_rate, sample_rate, resampler="soxr_vhq")
    streams = {
        name: make_stream(name, audio, sample_rate=sample_rate, low_band_rate=low_rate, resampler=resampler)[0]
        for name in task.streams
    }
    return ClipAudio(clip, sample_rate, streams, margin=sample_rate // 2)


def _read_with_margins(clip: Clip, margin: int) -> Audio:
    """float32 (channels, margin + samples + margin) at the file's rate."""
    _, total = audio_header(clip.path)
    before = min(margin, clip.start)
    after = max(0, min(margin, total - clip.start - clip.num_samples))
    wider = replace(clip, start=clip.start - before, num_samples=before + clip.num_samples + after)
    return np.pad(read_excerpt(wider), ((0, 0), (margin - before, margin - after)))


def read_excerpt(clip: Clip) -> Audio:
    """float32 (channels, samples) at the file's rate. AudioError if the file cannot be read or ends too early."""
    try:
        with open_track(clip.path, seekable=True) as file:
            file.seek(clip.start)
            samples = np.empty((clip.num_samples, file.channels), dtype=np.float32)
            filled = 0
            # A read stops at a gap in an Ogg or Opus stream; the next read continues after it.
            while filled < len(samples) and (count := len(file.read(out=samples[filled:]))):
                filled += count
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise AudioError(
            "the file cannot be read as audio", where=clip.path, value=str(error), remedy="fetch it again"
        ) from None
    if filled != clip.num_samples:
        raise AudioError(
            "the file ends before its header says",
            where=clip.path,
            value=f"{filled} of {clip.num_samples} samples from {clip.start} on",
            remedy="fetch it again; it is probably truncated",
        )
    if not np.isfinite(samples).all():
        remedy = "decode it again from its source"
        raise AudioError("the file holds values that are not finite numbers", where=clip.path, remedy=remedy)
    return np.ascontiguousarray(samples.T)  # (samples, channels) -> (channels, samples)
