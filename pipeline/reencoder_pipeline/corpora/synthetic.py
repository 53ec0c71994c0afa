"""Renders synthetic stereo clips, the demo's fallback without music. They are no evidence of quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def render_clips(folder: Path, *, count: int, seconds: float, seed: int, sample_rate: int = 44_100) -> list[Path]:
    """Write `count` stereo FLAC files of plucked chords and noise hits that fill the band up to Nyquist."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"synthetic_{index:02d}.flac" for index in range(count)]
    for index, path in enumerate(paths):
        audio = render_clip(seconds=seconds, seed=(seed, index), sample_rate=sample_rate)
        soundfile.write(path, audio.T, sample_rate, subtype="PCM_16")
    return paths


def render_clip(*, seconds: float, seed: int | tuple[int, ...], sample_rate: int = 44_100) -> NDArray[np.float32]:
    """(2, samples) float32, peak 0.7: every quarter of a second a note and a noise hit, each panned by itself."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * sample_rate)
    audio = np.zeros((2, num_samples))
    step = sample_rate // 4
    scale = 110.0 * 2.0 ** (np.array([0, 3, 5, 7, 10, 12, 15, 17, 19, 22]) / 12.0)
    for start in range(0, num_samples, step):
        length = min(4 * step, num_samples - start)
        time = np.arange(length) / sample_rate
        tone = _pluck(rng.choice(scale), time, rng, nyquist=sample_rate / 2)
        hit = rng.standard_normal(length) * np.exp(-time * rng.uniform(20, 60)) * rng.uniform(0.02, 0.3)
        for sound in (tone, hit):
            pan = rng.uniform(0.15, 0.85)
            audio[:, start : start + length] += np.outer([np.cos(pan * np.pi / 2), np.sin(pan * np.pi / 2)], sound)
    return (0.7 * audio / max(1e-9, np.abs(audio).max())).astype(np.float32)


def _pluck(pitch: float, time: NDArray[np.float64], rng: np.random.Generator, *, nyquist: float) -> NDArray[np.float64]:
    """Harmonics up to Nyquist; harmonic n has amplitude 1/n, and higher ones decay faster."""
    numbers = np.arange(1, int(nyquist / pitch))
    phases = rng.uniform(0, 2 * np.pi, len(numbers))
    decay = np.exp(-np.outer(1.0 + 0.15 * numbers, time))
    return (
        (1.0 / numbers)[:, None] * decay * np.sin(2 * np.pi * pitch * np.outer(numbers, time) + phases[:, None])
    ).sum(0)
