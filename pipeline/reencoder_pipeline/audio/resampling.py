"""Resamples, downmixes and makes the low band of waveforms, float32 (channels, samples)."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.tasks import LOW_BAND_RATE

Audio = NDArray[np.float32]


def resample(audio: Audio, rate: int, new_rate: int, *, resampler: str = "soxr_vhq") -> Audio:
    """Resample float32 (channels, samples) -> (channels, ceil(samples * new_rate / rate)); rates in Hz.

    soxr VHQ keeps everything to 0.9 of the new Nyquist and lets aliases through at -157 dB. torchaudio's default lets
    them through at -8 to -14 dB, so that a "low band" made by it betrays the high band; it exists for comparison.
    ConfigError for an unknown `resampler`.

    Example::

        resample(np.zeros((2, 48_000), np.float32), 48_000, 44_100).shape  # (2, 44_100)
    """
    length = -(-audio.shape[-1] * new_rate // rate)
    if resampler == "soxr_vhq":
        import soxr

        output = soxr.resample(audio.T, rate, new_rate, quality="VHQ").T  # (channels, n) -> (n, channels) and back
    elif resampler in _TORCHAUDIO_SETTINGS:
        output = _by_torchaudio(audio, rate, new_rate, resampler=resampler)
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


def _by_torchaudio(audio: Audio, rate: int, new_rate: int, *, resampler: str) -> Audio:
    """ConfigError with both versions where torchaudio does not load.

    torchaudio declares no torch requirement, so installers pair any two releases. What happens at import depends on the
    pair: ImportError (absent), OSError (a CPU torch lacks libc10_cuda.so) or RuntimeError (CUDA versions differ).
    """
    import torch

    try:
        from torchaudio import functional
    except (ImportError, OSError, RuntimeError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"the resampler {resampler} needs torchaudio, and torchaudio {_installed('torchaudio')} does not load "
            f"beside torch {_installed('torch')}",
            where="resampler",
            value=first_line,
            remedy="choose soxr_vhq, or install torch and torchaudio from one package index, both for CPU or both for "
            "the same CUDA",
        ) from error
    samples = torch.from_numpy(np.ascontiguousarray(audio))
    return functional.resample(samples, rate, new_rate, **_TORCHAUDIO_SETTINGS[resampler]).numpy()


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def fir_reach(rate: int, new_rate: int, *, resampler: str) -> int:
    """Half-width of a torchaudio filter in input samples, plus the distance of an output from the nearest input."""
    if resampler not in _TORCHAUDIO_SETTINGS:
        raise _unknown(resampler)
    settings, divisor = _TORCHAUDIO_SETTINGS[resampler], math.gcd(rate, new_rate)
    crossings = settings["lowpass_filter_width"] / settings["rolloff"]
    return math.ceil(crossings * max(1.0, rate / new_rate)) + rate // divisor


def _unknown(resampler: str) -> ConfigError:
    known = ", ".join(("soxr_vhq", *_TORCHAUDIO_SETTINGS))
    return ConfigError("the resampler is unknown", where="resampler", value=resampler, remedy=f"choose one of: {known}")


def downmix(audio: Audio) -> Audio:
    """(channels, samples) -> (1, samples): the mean, (L+R)/2."""
    return audio.mean(axis=0, keepdims=True, dtype=np.float32)


def low_band(audio: Audio, *, sample_rate: int, low_rate: int = LOW_BAND_RATE, resampler: str = "soxr_vhq") -> Audio:
    """The input of bandwidth extension (paper, section 3.2.1): `audio` resampled down to `low_rate` and back up.

    Shape (channels, samples) and rate stay the same.

    Example::

        low = low_band(audio, sample_rate=44_100)  # nothing above 11.025 kHz
    """
    low = resample(audio, sample_rate, low_rate, resampler=resampler)
    return resample(low, low_rate, sample_rate, resampler=resampler)[:, : audio.shape[1]]
