"""Waveforms: read a file, resample, downmix, make the low band. Arrays are float32 (channels, samples)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.errors import AudioError, ConfigError

if TYPE_CHECKING:
    import soundfile

Audio = NDArray[np.float32]

MAX_CHANNELS = 2
BLOCK_SAMPLES = 131_072  # 3 s
LENGTH_TOLERANCE_SECONDS = 0.01  # a sound Opus file decoded to 10 samples less than its header says
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's answer for a FLAC file that was written to a pipe
STREAMED_BYTES = 0x7FFFF000  # what programs write as the size of a WAV file whose end they do not know; or more


def read_audio(path: Path, *, sample_rate: int | None = None, num_samples: int | None = None) -> tuple[Audio, int]:
    """The whole file as float32 (channels, samples) and its rate, resampled to `sample_rate` if one is given.

    `num_samples` is what a manifest promises (at the file's own rate). AudioError as from `read_blocks`.
    """
    blocks, rates = zip(*read_blocks(path, num_samples=num_samples), strict=True)
    audio, rate = np.concatenate(blocks, axis=1), rates[0]
    if sample_rate is not None and rate != sample_rate:
        return resample(audio, rate, sample_rate), sample_rate
    return audio, rate


def read_blocks(path: Path, *, num_samples: int | None = None) -> Iterator[tuple[Audio, int]]:
    """The file as float32 (channels, at most BLOCK_SAMPLES), block by block, each with the file's rate.

    AudioError for anything that cannot be a track: unreadable, empty, more than two channels, not finite, or decoded to
    another length than header or manifest say (libsndfile returns a truncated MP3 or WAV without an error). The last
    two are known at the end alone: whatever was made of the blocks before is then worth nothing.
    """
    import soundfile

    decoded = bad = 0
    try:
        with open_sequential(_existing(path)) as file:
            rate, expected = file.samplerate, file.frames
            _require_track(path, channels=file.channels, rate=rate, num_samples=expected, log=file.extra_info)
            length = BLOCK_SAMPLES
            while length == BLOCK_SAMPLES:  # a shorter one is the end, or a gap after which Ogg would go on
                samples = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
                block: Audio = np.ascontiguousarray(
                    samples.T, dtype=np.float32
                )  # (samples, channels) -> (channels, samples)
                length = block.shape[1]
                decoded += length
                bad += block.size - int(np.count_nonzero(np.isfinite(block)))
                if not bad:
                    yield block, rate
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    for promised, source in ((expected, "its header"), (num_samples, "its manifest")):
        if promised is not None and abs(decoded - promised) > LENGTH_TOLERANCE_SECONDS * rate:
            raise AudioError(
                f"decodes to another length than {source} says",
                where=path,
                value=f"{decoded} samples instead of {promised}",
                remedy=_REFETCH,
            )
    if bad:
        remedy = "make it anew from its source"
        raise AudioError("holds values that are not numbers", where=path, value=f"{bad} of them", remedy=remedy)


def read_middle(path: Path, *, seconds: float | None, num_samples: int | None = None) -> Iterator[tuple[Audio, int]]:
    """`read_blocks` of at most so much of a file, from its middle; None: all. The whole file is read and checked."""
    if seconds is None:
        yield from read_blocks(path, num_samples=num_samples)
        return
    rate, length = audio_header(path)
    used, first = middle(length, rate, seconds), 0
    for block, _ in read_blocks(path, num_samples=num_samples):
        part = block[:, max(0, used.start - first) : max(0, used.stop - first)]
        first += block.shape[1]
        if part.size:
            yield part, rate


def middle(num_samples: int, rate: int, seconds: float | None) -> slice:
    """Which of a file's samples `read_middle` gives."""
    length = num_samples if seconds is None else min(num_samples, max(1, round(seconds * rate)))
    first = (num_samples - length) // 2
    return slice(first, first + length)


def open_sequential(path: bytes) -> soundfile.SoundFile:
    """A file to be read from its beginning to its end, without the seek that soundfile makes after every read: it takes
    time, and in Opus the sound after it is another one."""
    import soundfile

    class Sequential(soundfile.SoundFile):
        def seekable(self) -> bool:
            return False

    return Sequential(path)  # type: ignore[arg-type], bytes are read


def audio_header(path: Path) -> tuple[int, int]:
    """(sample rate, samples) as the header says; AudioError when it can already be seen that this is no track."""
    import soundfile

    try:
        info = soundfile.info(_existing(path))  # type: ignore[arg-type]
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    rate, num_samples = info.samplerate, info.frames
    _require_track(path, channels=info.channels, rate=rate, num_samples=num_samples, log=info.extra_info)
    return rate, num_samples


def _existing(path: Path) -> bytes:
    """The file's name for soundfile, which cannot encode a name that is not UTF-8 itself."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "nothing"
        raise AudioError("no such audio file", where=path, value=found, remedy="correct the manifest, or bring it back")
    return os.fsencode(path)


def _unreadable(path: Path, error: Exception) -> AudioError:
    reason = getattr(error, "error_string", None) or str(error)
    if isinstance(error, PermissionError) or not os.access(path, os.R_OK):
        return AudioError("may not be read by this user", where=path, value=reason, remedy="check its permissions")
    return AudioError("cannot be read as audio", where=path, value=reason, remedy=_FORMAT_REMEDY)


_FORMAT_REMEDY = (
    "libsndfile reads WAV, FLAC, OGG, Opus, MP3 and AIFF; convert other formats first, for example with ffmpeg"
)


def _require_track(path: Path, *, channels: int, rate: int, num_samples: int, log: str) -> None:
    if channels > MAX_CHANNELS:
        remedy = "mix it down, or split it into stereo files, first"
        raise AudioError("only mono and stereo are handled", where=path, value=f"{channels} channels", remedy=remedy)
    if num_samples == 0:
        raise AudioError("holds no samples", where=path, value="0 samples", remedy="fetch it again, or leave it out")
    if num_samples == UNKNOWN_LENGTH:
        remedy = "write it anew, for example `ffmpeg -i old.flac new.flac`"
        raise AudioError("does not say how long it is", where=path, value="no length in its header", remedy=remedy)
    # libsndfile shortens the length of a truncated WAV to what is there, and says so in its log alone.
    for match in _SHORTENED.finditer(log):
        promised, found = int(match[1]), int(match[2])
        missing_seconds = (promised - found) / found * num_samples / rate
        if promised < STREAMED_BYTES and missing_seconds > LENGTH_TOLERANCE_SECONDS:
            value = f"{found} bytes instead of {promised}"
            raise AudioError("ends before its header says", where=path, value=value, remedy=_REFETCH)


# data is WAV's, SSND AIFF's, Data Size AU's, riff W64's, Riff size RF64's.
_SHORTENED = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_REFETCH = "the file is probably truncated: fetch it again"


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

        from reencoder_pipeline.torchaudio_guard import import_torchaudio

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
