"""Finds tracks that are the same recording or arrangement: by chroma over 20 s, and by recurring spectral peaks."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import soundfile
from numpy.typing import NDArray

# Two tracks belong together when 20 s of one sound like 20 s of the other (correlation of chroma, same key) ...
CHROMA_LINK = 0.78
# ... or when this many spectral peaks recur at one time offset (the same recording, edited or extended).
PEAKS_LINK = 20

FRAME, HOP, NUM_SEMITONES, LOWEST_HZ = 4096, 2048, 60, 220.0
PEAK_BANDS = ((30, 60), (60, 100), (100, 160), (160, 260))  # bins of FRAME
CHROMA_RATE, WINDOW = 2, 40  # chroma frames per second, and in 20 s


@dataclass(frozen=True)
class Fingerprint:
    chroma: NDArray[np.float32]  # (half seconds, 24): 12 pitch classes in a low and in a high register
    peaks: NDArray[np.int64]  # strongest bins of four bands, as one number per loud frame
    times: NDArray[np.int64]  # the frame of each


@dataclass(frozen=True)
class Pair:
    """Two tracks by their place in the list, and how alike they are by either measure."""

    first: int
    second: int
    chroma: float
    peaks: int

    @property
    def linked(self) -> bool:
        return self.chroma >= CHROMA_LINK or self.peaks >= PEAKS_LINK


def fingerprint(data: bytes) -> Fingerprint:
    """The fingerprint of an audio file's bytes; at least FRAME samples long."""
    audio, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    frames = np.lib.stride_tricks.sliding_window_view(audio, FRAME, axis=0)[::HOP]  # (samples, C) -> (T, C, FRAME)
    window, pooling = np.hanning(FRAME).astype(np.float32), _semitones(sample_rate)
    pooled, peaks = [], []
    for start in range(0, len(frames), 256):
        power = np.square(np.abs(np.fft.rfft(frames[start : start + 256] * window))).mean(axis=1)
        pooled.append(power @ pooling)
        peaks.append(np.stack([power[:, low:high].argmax(axis=1) + low for low, high in PEAK_BANDS], axis=1))
    semitones, peak = np.concatenate(pooled), np.concatenate(peaks)
    loudness = semitones.sum(axis=1)
    times = np.flatnonzero(loudness > 1e-4 * loudness.max())
    return Fingerprint(_chroma(semitones, sample_rate), peak[times] @ (512 ** np.arange(4)[::-1]), times)


def _semitones(sample_rate: int) -> NDArray[np.float32]:
    """(bins, semitones) of ones: every semitone has at least the bin nearest to it."""
    bins = np.fft.rfftfreq(FRAME, 1 / sample_rate)
    centres = LOWEST_HZ * 2 ** (np.arange(NUM_SEMITONES) / 12)
    inside = (bins[:, None] >= centres * 2 ** (-1 / 24)) & (bins[:, None] < centres * 2 ** (1 / 24))
    inside[np.abs(bins[:, None] - centres).argmin(axis=0), np.arange(NUM_SEMITONES)] |= ~inside.any(axis=0)
    return inside.astype(np.float32)


def _chroma(semitones: NDArray[np.floating], sample_rate: int) -> NDArray[np.float32]:
    """(frames, semitones) power -> (half seconds, 24), without the mean over pitch classes and over time."""
    slot = (np.arange(len(semitones)) * HOP * CHROMA_RATE / sample_rate).astype(int)
    amplitude = np.zeros((slot[-1] + 1, NUM_SEMITONES))
    np.add.at(amplitude, slot, np.sqrt(semitones))
    amplitude /= np.maximum(1, np.bincount(slot))[:, None]
    level = np.log10(amplitude + 1e-4 * amplitude.max() + 1e-9)
    low, high = level[:, :24].reshape(-1, 2, 12).mean(axis=1), level[:, 24:].reshape(-1, 3, 12).mean(axis=1)
    both = np.concatenate([part - part.mean(axis=1, keepdims=True) for part in (low, high)], axis=1)
    return (both - both.mean(axis=0)).astype(np.float32)


def close_pairs(fingerprints: Sequence[Fingerprint]) -> list[Pair]:
    """All pairs that are linked, and those that come near to it, the most alike first."""
    chroma, peaks = chroma_correlations(fingerprints), recurring_peaks(fingerprints)
    pairs = [Pair(i, j, float(chroma[i, j]), peaks[i, j]) for i, j in combinations(range(len(fingerprints)), 2)]
    close = [pair for pair in pairs if pair.chroma >= 0.9 * CHROMA_LINK or pair.peaks >= 0.7 * PEAKS_LINK]
    return sorted(close, key=lambda pair: -pair.chroma)


def chroma_correlations(fingerprints: Sequence[Fingerprint]) -> NDArray[np.float64]:
    """[i, j]: the best correlation of 20 s of track i, taken every 10 s, with any 20 s of track j, or vice versa."""
    best = np.zeros((len(fingerprints), len(fingerprints)))
    windows = [_windows(one.chroma) for one in fingerprints]
    for second, places in enumerate(windows):
        for first, queries in enumerate(windows):
            score = float((queries[:: WINDOW // 2] @ places.T).max())
            best[first, second] = max(best[first, second], score)
            best[second, first] = max(best[second, first], score)
    return best


def _windows(chroma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every 20 s, normalised; windows in which next to nothing changes match nothing."""
    padded = np.pad(chroma, ((0, max(0, WINDOW - len(chroma))), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0).reshape(-1, WINDOW * chroma.shape[1])
    norm = np.linalg.norm(windows, axis=1, keepdims=True)
    return np.where(norm > 0.15 * np.sqrt(WINDOW), windows / np.maximum(norm, 1e-6), 0.0).astype(np.float32)


def recurring_peaks(fingerprints: Sequence[Fingerprint]) -> Counter[tuple[int, int]]:
    """(i, j), i < j: how many rare peak patterns the two tracks share at one time offset (within 3 frames)."""
    patterns = np.concatenate([one.peaks for one in fingerprints])
    times = np.concatenate([one.times for one in fingerprints])
    owners = np.repeat(np.arange(len(fingerprints)), [len(one.peaks) for one in fingerprints])
    order = np.argsort(patterns, kind="stable")
    patterns, times, owners = patterns[order], times[order], owners[order]
    votes: Counter[tuple[int, int, int]] = Counter()
    for run in np.split(np.arange(len(patterns)), np.flatnonzero(np.diff(patterns)) + 1):
        if 2 <= len(run) <= 40:  # a pattern met more often says nothing
            for a, b in combinations(run, 2):
                if owners[a] != owners[b]:
                    votes[int(owners[a]), int(owners[b]), int(times[a] - times[b]) // 3] += 1
    best: Counter[tuple[int, int]] = Counter()
    for (first, second, _), count in votes.items():
        best[first, second] = max(best[first, second], count)
    return best
