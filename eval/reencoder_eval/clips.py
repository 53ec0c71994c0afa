"""Which excerpts are evaluated, and their audio: spread over the tracks, decided by the seed, no silent skipping."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from reencoder_eval.metrics import SILENCE_DBFS, level_dbfs
from reencoder_eval.stereo_metrics import near_mono as is_near_mono
from reencoder_pipeline.audio import Audio, audio_header, downmix, low_band, open_seekable, resample
from reencoder_pipeline.corpus import Track
from reencoder_pipeline.errors import AudioError, EvaluationError
from reencoder_pipeline.tasks import Task

FULL_BAND_RATE = 44_100  # a track below this rate has no high band to be compared with


@dataclass(frozen=True)
class Clip:
    """An excerpt of a track: `num_samples` from sample `start` on, at the file's own rate."""

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
class ClipChoice:
    """The clips in the order in which they were chosen: a longer choice begins with a shorter one."""

    clips: tuple[Clip, ...]
    silent: tuple[Clip, ...]
    near_mono: tuple[Clip, ...]
    too_short: tuple[str, ...]
    failures: tuple[AudioError, ...]


@dataclass(frozen=True)
class ClipAudio:
    """The streams that a task needs of one clip, float32 (margin + samples + margin,) at the autoencoder's rate.

    The margins are the track's own sound before and after the clip. A cut is a click, which fills the high band that is
    to be estimated: a module answered with bursts, and 98 % of a clip's error lay in its last 20 ms.
    """

    clip: Clip
    sample_rate: int
    streams: dict[str, np.ndarray]
    margin: int = 0

    @property
    def digest(self) -> str:
        """Of the audio itself: it changes with file, excerpt, rate and resampler, and with nothing else."""
        digest = hashlib.sha256(str(self.sample_rate).encode())
        for name in sorted(self.streams):
            digest.update(name.encode() + self.streams[name].tobytes())
        return digest.hexdigest()

    @property
    def length(self) -> int:
        """In samples, margins included."""
        return len(next(iter(self.streams.values())))

    def stack(self, names: Sequence[str]) -> np.ndarray:
        """(len(names), samples) of the clip alone."""
        return self.without_margins(np.stack([self.streams[name] for name in names]))

    def without_margins(self, audio: np.ndarray) -> np.ndarray:
        """(N, at least margin + samples) -> (N, samples)."""
        return audio[:, self.margin : self.margin + self.length - 2 * self.margin]


def choose_clips(tracks: Sequence[Track], *, task: str, num_clips: int, clip_seconds: float, seed: int) -> ClipChoice:
    """One excerpt of every track that suits the task, then a second one of every track, until there are `num_clips`.

    A track is cut into slots of `clip_seconds` with a random offset, visited in random order: its excerpts never
    overlap. Slots and the order of the tracks depend on the seed and the track's id, not on the other tracks. Silent
    excerpts (below -60 dBFS), for m2s those that are nearly mono, tracks shorter than a clip and unreadable files are
    passed over and returned. EvaluationError when nothing is left.
    """
    clips: list[Clip] = []
    silent: list[Clip] = []
    near_mono: list[Clip] = []
    too_short: list[str] = []
    failures: list[AudioError] = []
    queue: deque[Iterator[Clip]] = deque()
    for track in sorted(tracks, key=lambda track: hashlib.sha256(f"{seed}/{track.id}".encode()).digest()):
        try:
            if _suits(track, task):
                excerpts = _excerpts(track, clip_seconds=clip_seconds, seed=seed)
                queue.append(iter(excerpts)) if excerpts else too_short.append(track.id)
        except AudioError as error:
            failures.append(error)
    if not (queue or too_short or failures):
        raise EvaluationError(
            f"no track suits the task {task}",
            value=f"{len(tracks)} tracks",
            remedy=f"give tracks of at least {FULL_BAND_RATE} Hz, or a manifest with `tasks`",
        )
    while queue and len(clips) < num_clips:
        remaining = queue.popleft()
        try:
            clip = next((one for one in remaining if _usable(one, task, silent=silent, near_mono=near_mono)), None)
        except AudioError as error:
            failures.append(error)
            continue
        if clip is not None:
            clips.append(clip)
            queue.append(remaining)
    if not clips:
        raise EvaluationError(
            f"no excerpt of {clip_seconds:g} s can be used",
            value=f"{len(silent)} silent and {len(near_mono)} nearly mono excerpts, "
            f"{len(too_short)} tracks too short, {len(failures)} files unreadable",
            remedy="use shorter clips or other tracks",
        )
    return ClipChoice(tuple(clips), tuple(silent), tuple(near_mono), tuple(too_short), tuple(failures))


def load_clip(clip: Clip, *, task: Task, sample_rate: int, resampler: str, low_rate: int = 22_050) -> ClipAudio:
    """Read the excerpt and half a second on either side (not the file), bring it to `sample_rate`, and make the task's
    streams; `low_rate` and `resampler` make the low band. Where the track begins or ends, silence is put in place of
    what is not there."""
    audio = _read_with_margins(clip, clip.sample_rate // 2)
    if clip.sample_rate != sample_rate:
        audio = resample(audio, clip.sample_rate, sample_rate, resampler="soxr_vhq")
    mono = downmix(audio)

    def stream(name: str) -> np.ndarray:
        if name == "low_band":
            return low_band(mono, sample_rate=sample_rate, low_rate=low_rate, resampler=resampler)[0]
        return {"mono": mono[0], "left": audio[0], "right": audio[-1]}[name]

    return ClipAudio(clip, sample_rate, {name: stream(name) for name in task.streams}, margin=sample_rate // 2)


def _read_with_margins(clip: Clip, margin: int) -> Audio:
    """float32 (channels, margin + samples + margin) at the file's rate."""
    _, total = audio_header(clip.path)
    before = min(margin, clip.start)
    after = max(0, min(margin, total - clip.start - clip.num_samples))
    wider = replace(clip, start=clip.start - before, num_samples=before + clip.num_samples + after)
    return np.pad(read_excerpt(wider), ((0, 0), (margin - before, margin - after)))


def read_excerpt(clip: Clip) -> Audio:
    """float32 (channels, samples) at the file's rate; AudioError when the file ends before the excerpt does."""
    try:
        with open_seekable(clip.path) as file:
            file.seek(clip.start)
            samples = np.empty((clip.num_samples, file.channels), dtype=np.float32)
            filled = 0
            # One read stops at a gap in an Ogg or Opus stream, while the read after it goes on.
            while filled < len(samples) and (count := len(file.read(out=samples[filled:]))):
                filled += count
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise AudioError(
            "cannot be read as audio", where=clip.path, value=str(error), remedy="fetch it again"
        ) from None
    if filled != clip.num_samples:
        raise AudioError(
            "ends before its header says",
            where=clip.path,
            value=f"{filled} of {clip.num_samples} samples from {clip.start} on",
            remedy="the file is probably truncated: fetch it again",
        )
    if not np.isfinite(samples).all():
        raise AudioError("holds values that are not numbers", where=clip.path, remedy="make it anew from its source")
    return np.ascontiguousarray(samples.T)  # (samples, channels) -> (channels, samples)


def _suits(track: Track, task: str) -> bool:
    if track.tasks is not None:
        return task in track.tasks
    return (track.sample_rate or audio_header(track.path)[0]) >= FULL_BAND_RATE


def _excerpts(track: Track, *, clip_seconds: float, seed: int) -> list[Clip]:
    rate, num_samples = audio_header(track.path)
    length = round(clip_seconds * rate)
    slots = num_samples // length
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{track.id}/{seed}".encode()).digest()[:8], "big"))
    offset = int(random.integers(num_samples - slots * length + 1))
    starts = [offset + slot * length for slot in random.permutation(slots).tolist()]
    return [Clip(track.id, track.path, start, length, rate, track.licence) for start in starts]


def _usable(clip: Clip, task: str, *, silent: list[Clip], near_mono: list[Clip]) -> bool:
    """False for an excerpt that says nothing about the task; it is noted in one of the lists."""
    audio = read_excerpt(clip)
    if level_dbfs(downmix(audio)) < SILENCE_DBFS:
        silent.append(clip)
        return False
    if task == "m2s" and (len(audio) != 2 or is_near_mono(audio)):
        near_mono.append(clip)
        return False
    return True
