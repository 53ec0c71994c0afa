"""Measures from the long-term spectrum how high the music in a recording reaches, and how wide its stereo is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SIDE_MID_LIMIT_DB = 120.0
# Two channels count as one signal even if one is late by up to 1 ms. Bins below 22 Hz (DC and its leakage) are ignored.
LATEST_SECONDS = 0.001
LOWEST_BINS = 3
LAG_STEPS = 8  # steps of the lag in one sample

FRAME, HOP = 4096, 2048
BLOCK_FRAMES = 32  # frames transformed at once: their spectra stay in the processor's cache
SMOOTHING_HZ = 200.0
# Content lies less than this many dB below the power of the whole recording, in one bin of the smoothed spectrum ...
CONTENT_BELOW_TOTAL_DB = 85.0
# ... and above the rounding noise of 16 bits (a full-scale sine is 0 dB in its bin).
NOISE_FLOOR_DB = -115.0
# A shelf: the 800 Hz below it stand this far above everything beyond it. A steep but natural slope loses 5 to 8 dB.
SHELF_DROP_DB = 12.0
VALLEY_DROP_DB = 18.0
SHELF_BELOW_HZ = 1000.0
SHELF_GAP_HZ = 200.0
SHELF_LOWEST_HZ = 4000.0
# A line, such as a screen's whistle at 15.7 kHz or the pilot of FM at 19 kHz, stands this far above the median of its
# surroundings. A line with others below it within REACH_HZ is music: partials of a tone.
LINE_DB = 13.0
SURROUNDINGS_HZ = 1200.0
REACH_HZ = 2000.0
# A gap lies this far below the threshold for content. Quiet treble of music lies 5 to 7 dB below it.
GAP_DEPTH_DB = 12.0


class LongTermSpectrum:
    """Accumulates audio that arrives in blocks: the mean power spectrum (a full-scale sine reads 0 dB in its bin), and
    of the first two channels each one's power and their cross-spectrum."""

    def __init__(self) -> None:
        self._window = np.hanning(FRAME).astype(np.float32)
        self._sum = np.zeros(FRAME // 2 + 1)
        self._num_frames = 0
        self._pair: NDArray[np.float64] = np.zeros((2, FRAME // 2 + 1))
        self._cross: NDArray[np.complex128] = np.zeros(FRAME // 2 + 1, dtype=np.complex128)
        self._rest: NDArray[np.float32] | None = None

    def add(self, audio: NDArray[np.float32]) -> None:
        """Add (channels, samples). Frames reach across blocks; an incomplete last frame counts only if it is alone."""
        self._rest = audio if self._rest is None else np.concatenate([self._rest, audio], axis=1)
        num_frames = max(0, (self._rest.shape[1] - FRAME) // HOP + 1)
        for start in range(0, num_frames, BLOCK_FRAMES):
            end = min(start + BLOCK_FRAMES, num_frames)
            self._add_frames(self._rest[:, start * HOP : (end - 1) * HOP + FRAME])
        self._rest = self._rest[:, num_frames * HOP :]

    def _add_frames(self, audio: NDArray[np.float32]) -> None:
        from scipy.fft import rfft  # takes 0.4 of numpy's time for float32

        # (C, samples) -> (C, T, FRAME)
        frames = np.lib.stride_tricks.sliding_window_view(audio, FRAME, axis=1)[:, ::HOP]
        spectra: NDArray[np.complex64] = np.asarray(rfft(frames * self._window))
        power = np.square(spectra.real) + np.square(spectra.imag)
        self._sum += power.sum(axis=(0, 1), dtype=np.float64) / len(audio)
        self._num_frames += frames.shape[1]
        if len(audio) > 1:
            self._pair += power[:2].sum(axis=1, dtype=np.float64)
            self._cross += (spectra[0] * spectra[1].conj()).sum(axis=0, dtype=np.complex128)

    def width_db(self, *, sample_rate: int) -> float:
        """`Survey.width_db`; -120 for one channel and for silence."""
        self.mean()
        left, right = (2.0 * power[LOWEST_BINS:].sum() for power in self._pair)  # zeros for one channel
        if left + right == 0.0:
            return -SIDE_MID_LIMIT_DB
        cross = np.where(np.arange(len(self._cross)) < LOWEST_BINS, 0, self._cross)
        lags = int(LATEST_SECONDS * sample_rate) * LAG_STEPS
        # A lag shifts the channels out of each other's window; the window's autocorrelation corrects for it.
        window, size = np.abs(np.fft.rfft(self._window, 2 * FRAME)) ** 2, 2 * FRAME * LAG_STEPS
        found = np.fft.irfft(cross, FRAME * LAG_STEPS) * FRAME * LAG_STEPS
        own = np.fft.irfft(window, size)
        own = own / own[0]
        near = np.arange(-lags, lags + 1)
        best = min(float(np.max(np.abs(found[near]) / own[near])), float(np.sqrt(left * right)))
        gap = np.hypot(left - right, 2 * best)
        # The smaller eigenvalue is the determinant over the larger one; a difference of near numbers would be rounding.
        larger = (left + right + gap) / 2
        ratio = max(left * right - best**2, 0.0) / larger**2
        return float(np.clip(10.0 * np.log10(ratio + 1e-30), -SIDE_MID_LIMIT_DB, SIDE_MID_LIMIT_DB))

    def louder(self) -> int:
        """Index of the louder of the first two channels; 0 if they differ by rounding only."""
        self.mean()
        left, right = (power[LOWEST_BINS:].sum() for power in self._pair)
        return int(right > 1.05 * left)

    def mean(self) -> NDArray[np.float64]:
        """The mean power spectrum so far, (FRAME // 2 + 1,)."""
        if self._num_frames == 0 and self._rest is not None:
            self._add_frames(np.pad(self._rest, ((0, 0), (0, FRAME - self._rest.shape[1]))))
        return self._sum * (4.0 / np.square(self._window.sum(dtype=float)) / max(1, self._num_frames))


def bandwidth_of(power: NDArray[np.float64], *, sample_rate: int) -> float:
    """The highest frequency (Hz) with real content in a long-term power spectrum (FRAME // 2 + 1 bins); 0 for silence.

    Content, smoothed over 200 Hz, lies within 85 dB of the total power, whatever the gain, and above 16-bit noise. The
    noise above a lossy codec's cut-off may still pass that test, so a drop of 12 dB or more that is never made up also
    ends the band. Single lines (whistles, pilots) and content beyond a gap of 2 kHz do not extend the band.
    """
    bin_hz = sample_rate / FRAME
    total = 10.0 * np.log10(power.sum() + 1e-20)
    threshold = max(total - CONTENT_BELOW_TOTAL_DB, NOISE_FLOOR_DB)
    if (music := _without_lines(power, bin_hz, threshold=threshold)).max() > power.max() / 10**6:  # else: only lines
        power = music
    level = _level(power, bin_hz)
    return min(_last_content(level, bin_hz, threshold=threshold), _shelf(level, bin_hz)) * bin_hz


def _last_content(level: NDArray[np.float64], bin_hz: float, *, threshold: float) -> int:
    """The last bin that reaches `threshold` before a gap. A gap is wider than REACH_HZ and its median lies GAP_DEPTH_DB
    below the threshold."""
    content = np.flatnonzero(level > threshold)
    for before, after in pairwise(content):
        if after - before > REACH_HZ / bin_hz and np.median(level[before + 1 : after]) < threshold - GAP_DEPTH_DB:
            return int(before)
    return int(content[-1]) if content.size else 0


def _without_lines(power: NDArray[np.float64], bin_hz: float, *, threshold: float) -> NDArray[np.float64]:
    """Remove lines that stand alone: with neither content nor another kept line within REACH_HZ below them."""
    from scipy.ndimage import binary_dilation, median_filter

    middle = median_filter(power, size=round(SURROUNDINGS_HZ / bin_hz) | 1, mode="nearest")
    is_line = power > np.maximum(middle, 1e-20) * 10 ** (LINE_DB / 10)
    wide = np.ones(5, dtype=bool)  # a window's main lobe is four bins wide
    dense = _level(np.where(binary_dilation(is_line, wide), middle, power), bin_hz)
    kept = max(SHELF_LOWEST_HZ / bin_hz, _last_content(dense, bin_hz, threshold=threshold))
    alone = np.zeros(len(power), dtype=bool)
    for line in np.flatnonzero(is_line):
        if line <= kept + REACH_HZ / bin_hz:
            kept = max(kept, float(line))
        else:
            alone[line] = True
    return np.where(binary_dilation(alone, wide), middle, power)


def _level(power: NDArray[np.float64], bin_hz: float) -> NDArray[np.float64]:
    """The level of every bin in dB, smoothed over SMOOTHING_HZ."""
    return 10.0 * np.log10(_smoothed(power, width=round(SMOOTHING_HZ / bin_hz) | 1) + 1e-20)


def _smoothed(power: NDArray[np.float64], *, width: int) -> NDArray[np.float64]:
    """Mean over `width` bins, an odd number; the ends are continued with their own value."""
    padded = np.pad(power, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1.0 / width), "valid")


def _shelf(level: NDArray[np.float64], bin_hz: float) -> int:
    """The bin of the largest drop that is never made up; the last bin if no drop is as deep as a codec's."""
    gap, below = max(1, int(SHELF_GAP_HZ / bin_hz)), int(SHELF_BELOW_HZ / bin_hz)
    last = len(level) - 1
    edges = np.arange(int(SHELF_LOWEST_HZ / bin_hz), last - gap)
    if edges.size == 0:
        return last
    loudest_from = np.maximum.accumulate(level[::-1])[::-1]
    runs = np.lib.stride_tricks.sliding_window_view(level, below - gap + 1)  # runs[i] covers bins i .. i + below - gap
    drop = np.median(runs[edges - below], axis=1) - loudest_from[edges + gap]
    deepest = int(np.argmax(drop))
    shelf = int(edges[deepest]) if drop[deepest] >= SHELF_DROP_DB else last
    # Content behind a deep and wide valley, such as a swept whistle, does not belong to the band.
    width = max(gap + 1, int(REACH_HZ / bin_hz))
    inside = edges[edges + width < len(level)]
    floor = np.lib.stride_tricks.sliding_window_view(level, width - gap)[inside + gap].max(axis=1)
    depth = np.median(runs[inside - below], axis=1) - floor
    rises = loudest_from[inside + width] - floor >= SHELF_DROP_DB
    valleys = np.flatnonzero(rises & (depth >= VALLEY_DROP_DB))
    return min(shelf, int(inside[valleys[0]])) if valleys.size else shelf
