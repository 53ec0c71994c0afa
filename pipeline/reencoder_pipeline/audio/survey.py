"""Measures what a recording offers to each task: how high its music reaches, how wide its stereo is, how loud it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio.bandwidth import SIDE_MID_LIMIT_DB, LongTermSpectrum, bandwidth_of
from reencoder_pipeline.audio.read import read_blocks

# bwe: a target without content in the upper half of 0-22.05 kHz teaches a module to write silence there. No bandwidth
# of the 220 tracks in data_manifests/debian_music.jsonl lies between 15.4 kHz (old MP3 shelves) and 16.0 kHz.
BWE_LOWEST_RATE = 44_100
BWE_LOWEST_BANDWIDTH = 15_500.0
# m2s: below -30 dB both channels are one signal; above +3 dB they are so opposed that (L+R)/2 has lost the music.
M2S_SIDE_MID_DB = (-30.0, 3.0)
PEAK_LIMIT_DB = 12.0  # mastered music in float reaches +3 dBFS; far louder files were written without scaling


@dataclass(frozen=True)
class Survey:
    """What one recording offers. dB fields are relative to full scale (0 dB) or clipped to +-120; None: not measured.

    `bandwidth_hz`: see `bandwidth_of`. `side_mid_db`: side over mid energy of the first two channels; mono and silence
    give -120, nearly opposite channels large positive values. `width_db`: what the first two channels hold besides one
    signal, in dB of that signal: the smaller over the larger eigenvalue of their covariance, without DC and at the best
    lag within 1 ms. For independent mid and side of the usual sizes it equals side over mid; a dead channel, or a copy
    with another gain, polarity or arrival, gives far less than -30 dB. `louder`: index of the louder channel.
    """

    sample_rate: int
    num_samples: int
    num_channels: int
    bandwidth_hz: float
    side_mid_db: float
    level_db: float  # mean power of a channel
    width_db: float | None = None
    peak_db: float | None = None  # the largest sample
    louder: int = 0

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate

    @property
    def is_one_signal(self) -> bool:
        """Whether the channels hold one signal: equal apart from gain, polarity and arrival, or one of them is dead."""
        width = self.side_mid_db if self.width_db is None else min(self.width_db, self.side_mid_db)
        return self.num_channels == 1 or (self.num_channels == 2 and width < M2S_SIDE_MID_DB[0])


def survey(path: Path) -> Survey:
    """Survey one file, block by block. AudioError as from `read_blocks`.

    Example::

        found = survey(Path("song.flac"))
        found.bandwidth_hz, suited_tasks(found)  # for example 20_400.0, ("bwe", "m2s")
    """
    surveyor = None
    for block, rate in read_blocks(path):
        surveyor = surveyor or Surveyor(rate, len(block))
        surveyor.add(block)
    assert surveyor is not None, "read_blocks yields a block or raises an AudioError"
    return surveyor.result()


class Surveyor:
    """Surveys audio that arrives block by block."""

    def __init__(self, sample_rate: int, num_channels: int) -> None:
        self._sample_rate, self._num_channels, self._spectrum = sample_rate, num_channels, LongTermSpectrum()
        self._num_samples, self._peak = 0, 0.0
        self._energy = self._mid = self._side = 0.0  # of all channels, and of mid and side of the first two

    def add(self, block: NDArray[np.float32]) -> None:
        """Add (channels, samples)."""
        self._spectrum.add(block)
        exact = block.astype(np.float64)
        left, right = exact[0], exact[min(1, len(exact) - 1)]
        mid, side = (np.einsum("i,i->", x, x) / 4 for x in (left + right, left - right))
        self._num_samples += block.shape[1]
        self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
        self._mid += float(mid)
        self._side += float(side)
        # The mean over one or two channels is mid plus side.
        self._energy += float(mid + side if len(exact) <= 2 else np.square(exact).mean(axis=0).sum())

    def result(self) -> Survey:
        with np.errstate(divide="ignore"):
            side_mid_db = 10.0 * np.log10(np.float64(self._side) / self._mid) if self._side else -SIDE_MID_LIMIT_DB
        return Survey(
            sample_rate=self._sample_rate,
            num_samples=self._num_samples,
            num_channels=self._num_channels,
            bandwidth_hz=bandwidth_of(self._spectrum.mean(), sample_rate=self._sample_rate),
            side_mid_db=float(np.clip(side_mid_db, -SIDE_MID_LIMIT_DB, SIDE_MID_LIMIT_DB)),
            level_db=float(10.0 * np.log10(self._energy / max(1, self._num_samples) + 1e-20)),
            width_db=self._spectrum.width_db(sample_rate=self._sample_rate),
            peak_db=float(20.0 * np.log10(self._peak + 1e-10)),
            louder=self._spectrum.louder(),
        )


def suited_tasks(survey: Survey) -> tuple[str, ...]:
    """The tasks that this recording can serve as a target, by the thresholds at the top of this file."""
    lowest, highest = M2S_SIDE_MID_DB
    bwe = survey.sample_rate >= BWE_LOWEST_RATE and survey.bandwidth_hz >= BWE_LOWEST_BANDWIDTH
    m2s = survey.num_channels == 2 and lowest <= survey.side_mid_db <= highest and not survey.is_one_signal
    return ("bwe",) * bwe + ("m2s",) * m2s
