"""Measures what a recording is worth for each task: how high its music reaches, and how much stereo there is in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio import length_slack, open_sequential
from reencoder_pipeline.errors import AudioError

if TYPE_CHECKING:
    import soundfile

# bwe: a target without content in the upper half of 0-22.05 kHz teaches a module to write silence there. Among the
# 220 tracks of data_manifests/debian_music.jsonl none lies between 15.4 kHz (old MP3 shelves) and 16.0 kHz.
BWE_LOWEST_RATE = 44_100
BWE_LOWEST_BANDWIDTH = 15_500.0
# m2s: below -30 dB the two channels are one; above +3 dB they are so opposed that (L+R)/2 has lost the music.
M2S_SIDE_MID_DB = (-30.0, 3.0)

SIDE_MID_LIMIT_DB = 120.0

FRAME, HOP = 4096, 2048
READ_SAMPLES = 524_288
BLOCK_FRAMES = 32  # transformed at once; their spectra stay in a processor's cache
SMOOTHING_HZ = 200.0
# Content: less than this many dB below the power of the whole recording, in one bin of the smoothed spectrum ...
CONTENT_BELOW_TOTAL_DB = 85.0
# ... and above the rounding noise of 16 bits (full scale is 0 dB in its bin).
NOISE_FLOOR_DB = -115.0
# A shelf: the 800 Hz below it stand this far above everything beyond it. A steep but natural slope loses 5 to 8 dB.
SHELF_DROP_DB = 12.0
SHELF_BELOW_HZ = 1000.0
SHELF_GAP_HZ = 200.0
SHELF_LOWEST_HZ = 4000.0


@dataclass(frozen=True)
class Survey:
    """What one recording offers. `bandwidth_hz` and `side_mid_db` are defined by the functions of those names."""

    sample_rate: int
    num_samples: int
    num_channels: int
    bandwidth_hz: float
    side_mid_db: float
    level_db: float  # mean power of a channel, full scale = 0 dB: near-silent recordings are worth nothing

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def survey(path: Path) -> Survey:
    """Survey one file, block by block. AudioError when it cannot be decoded, or ends before its header says so."""
    import soundfile

    path = Path(path)
    try:
        with open_sequential(path) as file:
            promised, slack = file.frames, length_slack(file)
            result = survey_blocks(_blocks(file), file.samplerate, file.channels)
    except soundfile.SoundFileError as error:
        raise AudioError("cannot be decoded", where=path, value=str(error)) from None
    if result.num_samples == 0 or abs(result.num_samples - promised) > slack:
        raise AudioError("decodes to another length than its header says", where=path, value=result.num_samples)
    return result


def _blocks(file: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
    """(channels, samples) at a time. Not file.blocks(): where a file ends early, that repeats what the buffer held."""
    while len(block := file.read(READ_SAMPLES, dtype="float32", always_2d=True)) > 0:
        yield np.asarray(block.T, dtype=np.float32)  # (samples, channels) -> (channels, samples)


def survey_audio(audio: NDArray[np.float32], *, sample_rate: int) -> Survey:
    """Survey (channels, samples) that are in memory already."""
    blocks = (audio[:, start : start + READ_SAMPLES] for start in range(0, audio.shape[1], READ_SAMPLES))
    return survey_blocks(blocks, sample_rate, len(audio))


def survey_blocks(blocks: Iterable[NDArray[np.float32]], sample_rate: int, num_channels: int) -> Survey:
    """Survey audio that arrives in blocks of (channels, samples)."""
    surveyor = Surveyor(sample_rate, num_channels)
    for block in blocks:
        surveyor.add(block)
    return surveyor.result()


class Surveyor:
    """Surveys audio that is handed to it block by block."""

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._sample_rate, self._num_channels = sample_rate, num_channels
        self._spectrum, self._energy = _LongTermSpectrum(), _Energy()

    def add(self, block: NDArray[np.float32]) -> None:
        """(channels, samples)"""
        self._spectrum.add(block)
        self._energy.add(block)

    def result(self) -> Survey:
        return Survey(
            sample_rate=self._sample_rate,
            num_samples=self._energy.num_samples,
            num_channels=self._num_channels,
            bandwidth_hz=_bandwidth(self._spectrum.mean(), sample_rate=self._sample_rate),
            side_mid_db=self._energy.side_mid_db(),
            level_db=self._energy.level_db(),
        )


def suited_tasks(survey: Survey) -> tuple[str, ...]:
    """The tasks whose targets this recording can serve, by the thresholds at the top of this file."""
    lowest, highest = M2S_SIDE_MID_DB
    bwe = survey.sample_rate >= BWE_LOWEST_RATE and survey.bandwidth_hz >= BWE_LOWEST_BANDWIDTH
    m2s = survey.num_channels == 2 and lowest <= survey.side_mid_db <= highest
    return ("bwe",) * bwe + ("m2s",) * m2s


def effective_bandwidth(audio: NDArray[np.float32], *, sample_rate: int) -> float:
    """Highest frequency (Hz) with real content in (channels, samples); 0.0 for silence.

    The long-term power spectrum, averaged over channels and smoothed over 200 Hz, must stay within 85 dB of the total
    power, whatever the gain, and above 16-bit noise. Where a lossy codec has cut the top off, the noise above its shelf
    may still pass that test, so a drop of 12 dB or more that is never made up again ends the band too.
    """
    spectrum = _LongTermSpectrum()
    spectrum.add(audio)
    return _bandwidth(spectrum.mean(), sample_rate=sample_rate)


def side_mid_level(audio: NDArray[np.float32]) -> float:
    """Side over mid energy in dB, of the first two channels of (channels, samples), clipped to +-120.

    Mono (one channel, or two equal ones) and silence give -120. Channels near to opposite give large positive values.
    """
    energy = _Energy()
    energy.add(audio)
    return energy.side_mid_db()


class _LongTermSpectrum:
    """Mean power spectrum of audio that arrives in blocks; full scale sines read 0 dB in their bin."""

    def __init__(self) -> None:
        self._window = np.hanning(FRAME).astype(np.float32)
        self._sum = np.zeros(FRAME // 2 + 1)
        self._num_frames = 0
        self._rest: NDArray[np.float32] | None = None

    def add(self, audio: NDArray[np.float32]) -> None:
        """Add (channels, samples). Frames reach across blocks; an incomplete last one counts only where it is alone."""
        self._rest = audio if self._rest is None else np.concatenate([self._rest, audio], axis=1)
        num_frames = max(0, (self._rest.shape[1] - FRAME) // HOP + 1)
        for start in range(0, num_frames, BLOCK_FRAMES):
            end = min(start + BLOCK_FRAMES, num_frames)
            self._add_frames(self._rest[:, start * HOP : (end - 1) * HOP + FRAME])
        self._rest = self._rest[:, num_frames * HOP :]

    def _add_frames(self, audio: NDArray[np.float32]) -> None:
        from scipy.fft import rfft  # of float32 in 0.4 of numpy's time

        # (C, samples) -> (C, T, FRAME)
        frames = np.lib.stride_tricks.sliding_window_view(audio, FRAME, axis=1)[:, ::HOP]
        spectra: NDArray[np.complex64] = np.asarray(rfft(frames * self._window))
        power = np.square(spectra.real) + np.square(spectra.imag)
        self._sum += power.sum(axis=(0, 1), dtype=np.float64) / len(audio)
        self._num_frames += frames.shape[1]

    def mean(self) -> NDArray[np.float64]:
        if self._num_frames == 0 and self._rest is not None:
            self._add_frames(np.pad(self._rest, ((0, 0), (0, FRAME - self._rest.shape[1]))))
        return self._sum * (4.0 / np.square(self._window.sum(dtype=float)) / max(1, self._num_frames))


class _Energy:
    """Energies of audio that arrives in blocks: of all channels, and of mid and side of the first two."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._mean_square = self._mid = self._side = 0.0

    def add(self, audio: NDArray[np.float32]) -> None:
        exact = audio.astype(np.float64)
        left, right = exact[0], exact[min(1, len(exact) - 1)]
        mid, side = (np.einsum("i,i->", x, x) / 4 for x in (left + right, left - right))
        self.num_samples += audio.shape[1]
        self._mid += float(mid)
        self._side += float(side)
        # Of one or two channels this is mid and side together.
        self._mean_square += float(mid + side if len(exact) <= 2 else np.square(exact).mean(axis=0).sum())

    def side_mid_db(self) -> float:
        if self._side == 0.0:
            return -SIDE_MID_LIMIT_DB
        if self._mid == 0.0:
            return SIDE_MID_LIMIT_DB
        level = 10.0 * np.log10(self._side / self._mid)
        return float(np.clip(level, -SIDE_MID_LIMIT_DB, SIDE_MID_LIMIT_DB))

    def level_db(self) -> float:
        return float(10.0 * np.log10(self._mean_square / max(1, self.num_samples) + 1e-20))


def _bandwidth(power: NDArray[np.float64], *, sample_rate: int) -> float:
    """Where the content of a long-term power spectrum (FRAME // 2 + 1 bins) ends, in Hz."""
    bin_hz = sample_rate / FRAME
    total = 10.0 * np.log10(power.sum() + 1e-20)
    level = 10.0 * np.log10(_smoothed(power, width=round(SMOOTHING_HZ / bin_hz) | 1) + 1e-20)
    content = np.flatnonzero(level > max(total - CONTENT_BELOW_TOTAL_DB, NOISE_FLOOR_DB))
    if content.size == 0:
        return 0.0
    return min(int(content[-1]), _shelf(level, bin_hz)) * bin_hz


def _smoothed(power: NDArray[np.float64], *, width: int) -> NDArray[np.float64]:
    """Mean over `width` bins, an odd number; the ends are continued with their own value."""
    padded = np.pad(power, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1.0 / width), "valid")


def _shelf(level: NDArray[np.float64], bin_hz: float) -> int:
    """The bin of the largest drop that is never made up again; the last bin when no drop is as deep as a codec's."""
    gap, below = max(1, int(SHELF_GAP_HZ / bin_hz)), int(SHELF_BELOW_HZ / bin_hz)
    last = len(level) - 1
    edges = np.arange(int(SHELF_LOWEST_HZ / bin_hz), last - gap)
    if edges.size == 0:
        return last
    loudest_from = np.maximum.accumulate(level[::-1])[::-1]
    runs = np.lib.stride_tricks.sliding_window_view(level, below - gap + 1)  # runs[i] covers bins i .. i + below - gap
    drop = np.median(runs[edges - below], axis=1) - loudest_from[edges + gap]
    deepest = int(np.argmax(drop))
    return int(edges[deepest]) if drop[deepest] >= SHELF_DROP_DB else last
