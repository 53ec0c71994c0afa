"""Waveforms: read a file, resample, downmix, make the low band. Arrays are float32 (channels, samples)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reencoder_pipeline.audio.mp3_frames import SLACK_FRAMES, WithInfo, count_frames
from reencoder_pipeline.audio.resampling import Audio, resample
from reencoder_pipeline.audio.sound_lengths import STREAMED_BYTES, require_all_counted
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.safe_text import file_kind

if TYPE_CHECKING:
    import soundfile


MAX_CHANNELS = 2
BLOCK_SAMPLES = 131_072  # 3 s
LENGTH_TOLERANCE_SECONDS = 0.01  # a sound Opus file decoded to 10 samples less than its header says
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's answer for a FLAC file that was written to a pipe
RATES = (4_000, 768_000)  # Hz; what lies outside is a damaged header


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
    two errors are only raised at the end of the file; discard anything computed from earlier blocks.
    """
    import soundfile

    decoded = bad = 0
    try:
        with open_sequential(path) as file:
            rate, expected, slack = file.samplerate, file.frames, length_slack(file)
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
        if promised is not None and abs(decoded - promised) > slack:
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


def open_sequential(path: Path) -> soundfile.SoundFile:
    """A track's file to be read from its beginning to its end, without the seek that soundfile makes after every read:
    it takes time, and in Opus the sound after it is another one. AudioError if it can be seen that this is no track."""
    return _opened(path, sequential=True)


def open_seekable(path: Path) -> soundfile.SoundFile:
    """A track's file for excerpts. AudioError as from `open_sequential`."""
    return _opened(path, sequential=False)


def length_slack(file: soundfile.SoundFile) -> float:
    """Samples by which a file may decode to another length than `frames` says: more where MP3 frames were counted."""
    counted = getattr(file, "samples_a_frame", 0)
    return max(LENGTH_TOLERANCE_SECONDS * file.samplerate, SLACK_FRAMES * counted)


def _opened(path: Path, *, sequential: bool) -> soundfile.SoundFile:
    import soundfile

    class Track(soundfile.SoundFile):
        samples_a_frame = 0
        source: WithInfo | None = None

        def seekable(self) -> bool:
            return not sequential and super().seekable()

        def close(self) -> None:
            super().close()
            if self.source is not None:
                self.source.close()

    if (found := file_kind(path)) != "a file":
        remedy = "check the path, and the manifest or list that names it"
        raise AudioError("no such audio file", where=path, value=found, remedy=remedy)
    try:
        file = Track(os.fsencode(path))  # type: ignore[arg-type], bytes are read: a name need not be UTF-8
        try:
            rate, num_samples, log = file.samplerate, file.frames, file.extra_info
            _require_track(path, channels=file.channels, rate=rate)
            if file.format in ("MP3", "MPEG") or file.subtype.startswith("MPEG_LAYER"):  # the latter in a WAV, too
                file = _counted(file, path, Track)
            else:
                require_all_counted(
                    path, rate=rate, num_samples=num_samples, tolerance_seconds=LENGTH_TOLERANCE_SECONDS
                )
            _require_length(path, rate=rate, num_samples=file.frames, log=log)
        except BaseException:
            file.close()
            raise
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    return file


def _counted(file: Any, path: Path, kind: Any) -> Any:
    """An MP3; where its header does not say how many frames there are, or fewer than there are, as if it did."""
    counted = count_frames(path)
    if counted is None or counted.samples == 0:
        return file
    if counted.stated is not None and counted.samples < counted.stated - counted.slack and not counted.has_info:
        value = f"{counted.samples} samples instead of {counted.stated}"
        raise AudioError("ends before its header says", where=path, value=value, remedy=_REFETCH)
    known = file.frames if counted.stated is None or not counted.has_info else counted.stated
    if counted.samples <= known + counted.slack and counted.has_info and counted.stated is not None:
        return file
    remedy = "decode it once, for example `ffmpeg -i old.mp3 new.flac`"
    if counted.problem is not None:
        raise AudioError("cannot be read to its end", where=path, value=counted.problem, remedy=remedy)
    if abs(file.frames - counted.samples) <= counted.slack:
        file.samples_a_frame = counted.first.samples
        return file
    if counted.first.layer != 3:
        value = f"{counted.samples} samples in its frames, {file.frames} by libsndfile's estimate"
        raise AudioError("does not say how long it is", where=path, value=value, remedy=remedy)
    file.close()
    source = WithInfo(path, counted)
    try:
        whole = kind(source)
    except BaseException:
        source.close()
        raise
    whole.source, whole.samples_a_frame = source, counted.first.samples
    return whole


def audio_header(path: Path) -> tuple[int, int]:
    """(sample rate, samples) as the header says; AudioError when it can already be seen that this is no track."""
    with open_sequential(path) as file:
        return file.samplerate, file.frames


def _unreadable(path: Path, error: Exception) -> AudioError:
    reason = getattr(error, "error_string", None) or str(error)
    if isinstance(error, PermissionError) or not os.access(path, os.R_OK):
        return AudioError("may not be read by this user", where=path, value=reason, remedy="check its permissions")
    return AudioError("cannot be read as audio", where=path, value=reason, remedy=_FORMAT_REMEDY)


_FORMAT_REMEDY = (
    "libsndfile reads WAV, FLAC, OGG, Opus, MP3 and AIFF; convert other formats first, for example with ffmpeg"
)


def _require_track(path: Path, *, channels: int, rate: int) -> None:
    if channels > MAX_CHANNELS:
        remedy = "mix it down, or split it into stereo files, first"
        raise AudioError("only mono and stereo are handled", where=path, value=f"{channels} channels", remedy=remedy)
    lowest, highest = RATES
    if not lowest <= rate <= highest:
        remedy = f"{lowest:,} to {highest:,} Hz are read: the header is damaged, or this is no recording of sound"
        raise AudioError("its sample rate is not that of audio", where=path, value=f"{rate} Hz", remedy=remedy)


def _require_length(path: Path, *, rate: int, num_samples: int, log: str) -> None:
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
