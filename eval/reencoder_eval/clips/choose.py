"""Chooses which tracks and which seconds of them an evaluation measures."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reencoder_eval.clips.read import FULL_BAND_RATE, Clip, read_excerpt
from reencoder_eval.metrics.spectral import SILENCE_DBFS, level_dbfs
from reencoder_eval.metrics.stereo import near_mono as is_near_mono
from reencoder_pipeline.audio.read import audio_header
from reencoder_pipeline.audio.resampling import downmix
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.errors import AudioError, EvaluationError


@dataclass(frozen=True)
class ClipChoice:
    """The chosen clips in order, and what was left out. A choice of more clips begins with the same clips."""

    clips: tuple[Clip, ...]
    silent: tuple[Clip, ...]
    near_mono: tuple[Clip, ...]
    too_short: tuple[str, ...]
    failures: tuple[AudioError, ...]


def choose_clips(tracks: Sequence[Track], *, task: str, num_clips: int, clip_seconds: float, seed: int) -> ClipChoice:
    """Take one clip of every track that suits the task, then a second one of every track, until there are `num_clips`.

    A track is cut into slots of `clip_seconds` at a random offset, visited in random order, so its clips never overlap.
    Slots and the order of the tracks depend only on the seed and the track's id. Silent clips (below -60 dBFS),
    near-mono clips (m2s), tracks shorter than a clip and unreadable files are left out and returned. EvaluationError if
    no clip is left.

    Example::

        choice = choose_clips(tracks, task="bwe", num_clips=48, clip_seconds=10.0, seed=0)
        audio = load_clip(choice.clips[0], task=TASKS["bwe"], sample_rate=44_100, resampler="soxr_vhq")
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
                slots = _slots(track, clip_seconds=clip_seconds, seed=seed)
                queue.append(iter(slots)) if slots else too_short.append(track.id)
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
            f"no clip of {clip_seconds:g} s can be used",
            value=f"{len(silent)} silent and {len(near_mono)} nearly mono clips, "
            f"{len(too_short)} tracks too short, {len(failures)} files unreadable",
            remedy="use shorter clips or other tracks",
        )
    return ClipChoice(tuple(clips), tuple(silent), tuple(near_mono), tuple(too_short), tuple(failures))


def _suits(track: Track, task: str) -> bool:
    if track.tasks is not None:
        return task in track.tasks
    return (track.sample_rate or audio_header(track.path)[0]) >= FULL_BAND_RATE


def _slots(track: Track, *, clip_seconds: float, seed: int) -> list[Clip]:
    rate, num_samples = audio_header(track.path)
    length = round(clip_seconds * rate)
    slots = num_samples // length
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{track.id}/{seed}".encode()).digest()[:8], "big"))
    offset = int(random.integers(num_samples - slots * length + 1))
    starts = [offset + slot * length for slot in random.permutation(slots).tolist()]
    return [Clip(track.id, track.path, start, length, rate, track.licence) for start in starts]


def _usable(clip: Clip, task: str, *, silent: list[Clip], near_mono: list[Clip]) -> bool:
    """Whether the clip can be scored; one that cannot is added to one of the lists."""
    audio = read_excerpt(clip)
    if level_dbfs(downmix(audio)) < SILENCE_DBFS:
        silent.append(clip)
        return False
    if task == "m2s" and (len(audio) != 2 or is_near_mono(audio)):
        near_mono.append(clip)
        return False
    return True
