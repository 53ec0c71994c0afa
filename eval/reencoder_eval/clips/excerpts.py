"""Loads the audio on which latents are diagnosed: the beginnings of clips as mono, low band and stereo."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reencoder_eval.clips.read import Clip, read_excerpt
from reencoder_eval.metrics.spectral import SHORTEST, SILENCE_DBFS, level_dbfs
from reencoder_pipeline.audio.resampling import downmix, low_band, resample
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.latents import LatentSpec


@dataclass(frozen=True)
class Excerpt:
    """float32 (samples,) each, a whole number of frames. `stereo` is (2, samples), or None if its side is silent."""

    id: str
    mono: np.ndarray
    low_band: np.ndarray
    stereo: np.ndarray | None

    @property
    def digest(self) -> str:
        arrays = (self.mono, self.low_band, *(() if self.stereo is None else (self.stereo,)))
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def load_excerpts(clips: Sequence[Clip], *, seconds: float, spec: LatentSpec, resampler: str) -> list[Excerpt]:
    """The first `seconds` of every clip, all of one length. Silent clips and unreadable files are left out."""
    seconds = min([seconds, *(clip.num_samples / clip.sample_rate for clip in clips)])
    length = spec.num_samples(max(int(seconds * spec.frame_rate), spec.num_frames(SHORTEST)))
    excerpts = []
    for clip in clips:
        needed = -(-length * clip.sample_rate // spec.sample_rate)
        try:
            audio = read_excerpt(replace(clip, num_samples=needed))
        except AudioError:
            continue  # scoring the same clips has reported this file as a failure
        if clip.sample_rate != spec.sample_rate:
            audio = resample(audio, clip.sample_rate, spec.sample_rate)
        audio = audio[:, :length]
        mono = downmix(audio)
        if level_dbfs(mono) < SILENCE_DBFS:
            continue
        low = low_band(mono, sample_rate=spec.sample_rate, resampler=resampler)[0]
        wide = len(audio) == 2 and level_dbfs((audio[0] - audio[1]) / 2) >= SILENCE_DBFS
        excerpts.append(Excerpt(clip.id, mono[0], low, np.ascontiguousarray(audio) if wide else None))
    return excerpts
