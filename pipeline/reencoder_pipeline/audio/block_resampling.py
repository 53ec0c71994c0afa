"""Resamples, and makes the low band of, audio that arrives in blocks: same values as in one piece, in little memory."""

from __future__ import annotations

import math

import numpy as np

from reencoder_pipeline.audio.resampling import Audio, fir_reach, resample

FIR_BLOCK = 65_536


class BlockResampler:
    """`resample` for audio that arrives in blocks: the joined results of `add` and `finish` equal its result.

    They are equal to the last bit, whatever the blocks (measured on music and noise with soxr 1.1 and torchaudio 2.11):
    soxr keeps its state between blocks; torchaudio's filters are finite, so each block gets their reach as context.

    Example::

        resampler = BlockResampler(48_000, 44_100, channels=2)
        pieces = [*map(resampler.add, blocks), resampler.finish()]  # each (2, samples)
    """

    def __init__(self, rate: int, new_rate: int, *, channels: int, resampler: str = "soxr_vhq") -> None:
        self._rate, self._new_rate, self._channels = rate, new_rate, channels
        self._taken = self._given = 0
        is_soxr = resampler == "soxr_vhq"
        self._stage = _Soxr(rate, new_rate, channels) if is_soxr else _Fir(rate, new_rate, channels, resampler)

    def add(self, audio: Audio) -> Audio:
        """(channels, samples) -> (channels, the samples that can be computed by now)."""
        self._taken += audio.shape[1]
        output = self._stage.add(audio)
        self._given += output.shape[1]
        return output

    def finish(self) -> Audio:
        """The remaining samples; no block may follow."""
        missing = -(-self._taken * self._new_rate // self._rate) - self._given
        rest = self._stage.finish()[:, : max(0, missing)]
        return np.pad(rest, ((0, 0), (0, max(0, missing - rest.shape[1]))))


class BlockLowBand:
    """`low_band` for audio that arrives in blocks; as many samples come out as went in."""

    def __init__(self, *, channels: int, sample_rate: int, low_rate: int, resampler: str) -> None:
        self._down = BlockResampler(sample_rate, low_rate, channels=channels, resampler=resampler)
        self._up = BlockResampler(low_rate, sample_rate, channels=channels, resampler=resampler)
        self._ahead = 0  # samples received and not yet returned

    def add(self, audio: Audio) -> Audio:
        output = self._up.add(self._down.add(audio))
        self._ahead += audio.shape[1] - output.shape[1]
        return output

    def finish(self) -> Audio:
        return np.concatenate([self._up.add(self._down.finish()), self._up.finish()], axis=1)[:, : self._ahead]


class _Soxr:
    def __init__(self, rate: int, new_rate: int, channels: int) -> None:
        import soxr

        self._channels = channels
        self._stream = soxr.ResampleStream(rate, new_rate, channels, dtype="float32", quality="VHQ")

    def finish(self) -> Audio:
        return self.add(np.zeros((self._channels, 0), np.float32), last=True)

    def add(self, audio: Audio, *, last: bool = False) -> Audio:
        # (channels, samples) -> (samples, channels) and back
        output = self._stream.resample_chunk(np.ascontiguousarray(audio.T), last=last)
        return np.ascontiguousarray(output.T)


class _Fir:
    """Resamples blocks of about FIR_BLOCK samples, with context on both sides that is discarded. Blocks begin at
    multiples of the reduced rate, where an output lies exactly on an input, however the audio arrives."""

    def __init__(self, rate: int, new_rate: int, channels: int, resampler: str) -> None:
        self._rates, self._resampler = (rate, new_rate), resampler
        divisor = math.gcd(rate, new_rate)
        self._step, self._new_step = rate // divisor, new_rate // divisor
        self._block = -(-FIR_BLOCK // self._step) * self._step
        self._context = -(-fir_reach(rate, new_rate, resampler=resampler) // self._step) * self._step
        self._before = 0  # samples of context at the front of `_held`
        self._held = np.zeros((channels, 0), np.float32)

    def add(self, audio: Audio) -> Audio:
        self._held = np.concatenate([self._held, audio], axis=1)
        outputs = [self._held[:, :0]]
        while self._held.shape[1] >= self._before + self._block + self._context:
            whole = self._resampled(self._held[:, : self._before + self._block + self._context])
            outputs.append(whole[:, self._new(self._before) : self._new(self._before + self._block)])
            self._held = self._held[:, max(0, self._before + self._block - self._context) :]
            self._before = min(self._context, self._before + self._block)
        return np.concatenate(outputs, axis=1)

    def finish(self) -> Audio:
        if self._held.shape[1] == 0:
            return self._held
        return self._resampled(self._held)[:, self._new(self._before) :]

    def _new(self, samples: int) -> int:
        return samples // self._step * self._new_step

    def _resampled(self, audio: Audio) -> Audio:
        return resample(audio, *self._rates, resampler=self._resampler)
