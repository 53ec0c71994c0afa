"""Resamples, downmixes and makes the low band of waveforms, float32 (channels, samples)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import ConfigError

Audio = NDArray[np.float32]


def resample(audio: Audio, rate: int, new_rate: int, *, resampler: str = "soxr_vhq") -> Audio:
    """(channels, samples) -> (channels, ceil(samples * new_rate / rate)).

    soxr VHQ keeps everything to 0.9 of the new Nyquist and lets aliases through at -157 dB. torchaudio's default lets
    them through at -8 to -14 dB, so that a "low band" made by it betrays the high band; it exists for comparison.
    """
    length = -(-audio.shape[-1] * new_rate // rate)
    if resampler == "soxr_vhq":
        import soxr

        output = soxr.resample(audio.T, rate, new_rate, quality="VHQ").T  # (channels, n) -> (n, channels) and back
    elif resampler in _TORCHAUDIO_SETTINGS:
        import torch

        from reencoder_pipeline.audio.torchaudio_guard import import_torchaudio

        settings = _TORCHAUDIO_SETTINGS[resampler]
        functional = import_torchaudio().functional
        output = functional.resample(torch.from_numpy(np.ascontiguousarray(audio)), rate, new_rate, **settings).numpy()
    else:
        raise _unknown(resampler)
    output = output[:, :length]
    if output.shape[1] < length:
        output = np.pad(output, ((0, 0), (0, length - output.shape[1])))
    return np.ascontiguousarray(output, dtype=np.float32)


_TORCHAUDIO_SETTINGS: dict[str, dict[str, Any]] = {
    "torchaudio_default": {"lowpass_filter_width": 6, "rolloff": 0.99},  # torchaudio's own defaults
    "torchaudio_kaiser_best": {
        "lowpass_filter_width": 64,
        "rolloff": 0.9475937167399596,
        "resampling_method": "sinc_interp_kaiser",
        "beta": 14.769656459379492,
    },
}


def fir_reach(rate: int, new_rate: int, *, resampler: str) -> int:
    """How many samples away a torchaudio resampler looks: zero crossings of its sinc, and its outputs' own places."""
    if resampler not in _TORCHAUDIO_SETTINGS:
        raise _unknown(resampler)
    settings, divisor = _TORCHAUDIO_SETTINGS[resampler], math.gcd(rate, new_rate)
    crossings = settings["lowpass_filter_width"] / settings["rolloff"]
    return math.ceil(crossings * max(1.0, rate / new_rate)) + rate // divisor


def _unknown(resampler: str) -> ConfigError:
    known = ", ".join(("soxr_vhq", *_TORCHAUDIO_SETTINGS))
    return ConfigError("unknown resampler", where="resampler", value=resampler, remedy=f"one of: {known}")


def downmix(audio: Audio) -> Audio:
    """(channels, samples) -> (1, samples): the mean, (L+R)/2."""
    return audio.mean(axis=0, keepdims=True, dtype=np.float32)


def low_band(audio: Audio, *, sample_rate: int, low_rate: int = 22_050, resampler: str = "soxr_vhq") -> Audio:
    """The input of bandwidth extension: down to `low_rate` and back up, same shape and rate (paper, section 3.2.1)."""
    low = resample(audio, sample_rate, low_rate, resampler=resampler)
    return resample(low, low_rate, sample_rate, resampler=resampler)[:, : audio.shape[1]]
