"""Reads audio files, whole or block by block, and refuses the ones that would be decoded wrongly or only in part."""

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
LENGTH_TOLERANCE_SECONDS = 0.01  # an undamaged Opus file decoded to 10 samples less than its header says
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's answer for a FLAC file that was written to a pipe
RATES = (4_000, 768_000)  # Hz; other rates come from damaged headers


def read_audio(path: Path, *, sample_rate: int | None = None, num_samples: int | None = None) -> tuple[Audio, int]:
    """Read a whole file as float32 (channels, samples) with its rate in Hz, resampled to `sample_rate` if given.

    `num_samples` is the length in a manifest (at the file's own rate). AudioError as from `read_blocks`.

    Example::

        audio, rate = read_audio(Path("song.flac"), sample_rate=44_100)  # (2, samples), 44_100
    """
    blocks, rates = zip(*read_blocks(path, num_samples=num_samples), strict=True)
    audio, rate = np.concatenate(blocks, axis=1), rates[0]
    if sample_rate is not None and rate != sample_rate:
        return resample(audio, rate, sample_rate), sample_rate
    return audio, rate


def read_blocks(path: Path, *, num_samples: int | None = None) -> Iterator[tuple[Audio, int]]:
    """Read a file in blocks of float32 (channels, at most BLOCK_SAMPLES), each with the file's rate in Hz.

    AudioError for a file that cannot be a track: unreadable, empty, with more than two channels, with values that are
    not finite, or decoded to another length than its header or manifest says (libsndfile returns a truncated MP3 or WAV
    without an error). The last two are only raised at the end of the file: discard what earlier blocks gave.
    """
    import soundfile

    decoded = bad = 0
    try:
        with open_track(path) as file:
            rate, expected, slack = file.samplerate, file.frames, length_slack(file)
            length = BLOCK_SAMPLES
            while length == BLOCK_SAMPLES:  # a shorter block is the end, or a gap after which Ogg would go on
                samples = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
                # (samples, channels) -> (channels, samples)
                block: Audio = np.ascontiguousarray(samples.T, dtype=np.float32)
                length = block.shape[1]
                decoded += length
                bad += block.size - int(np.count_nonzero(np.isfinite(block)))
                if not bad:
                    yield block, rate
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    for promised, source in ((expected, "its header"), (num_samples, "its manifest")):
        if promised is not None and abs(decoded - promised) > slack:
            value = f"{decoded} samples instead of {promised}"
            raise AudioError(
                f"the file decodes to another length than {source} says", where=path, value=value, remedy=_REFETCH
            )
    if bad:
        what, remedy = "the file holds values that are not numbers", "make it again from its source"
        raise AudioError(what, where=path, value=f"{bad} of them", remedy=remedy)


def read_middle(path: Path, *, seconds: float | None, num_samples: int | None = None) -> Iterator[tuple[Audio, int]]:
    """`read_blocks` of at most `seconds` from the middle of a file; None: all. The whole file is read and checked."""
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
    """The samples of a file that `read_middle` returns."""
    length = num_samples if seconds is None else min(num_samples, max(1, round(seconds * rate)))
    first = (num_samples - length) // 2
    return slice(first, first + length)


def length_slack(file: soundfile.SoundFile) -> float:
    """Samples by which the decoded length may differ from `file.frames`; more if MP3 frames were counted."""
    counted = getattr(file, "samples_a_frame", 0)
    return max(LENGTH_TOLERANCE_SECONDS * file.samplerate, SLACK_FRAMES * counted)


def open_track(path: Path, *, seekable: bool = False) -> soundfile.SoundFile:
    """Open a track's file for reading from beginning to end. AudioError if its header shows that it is not a track.

    `seekable`: for excerpts. soundfile seeks after every read of a seekable file, which takes time, and in Opus changes
    the samples that follow."""
    import soundfile

    class Track(soundfile.SoundFile):
        samples_a_frame = 0
        source: WithInfo | None = None

        def seekable(self) -> bool:
            return seekable and super().seekable()

        def close(self) -> None:
            super().close()
            if self.source is not None:
                self.source.close()

    if (found := file_kind(path)) != "a file":
        remedy = "check the path, and the manifest or list that names it"
        raise AudioError("there is no such audio file", where=path, value=found, remedy=remedy)
    try:
        file = Track(os.fsencode(path))  # type: ignore[arg-type], as bytes: a name need not be UTF-8
        try:
            rate, num_samples, log = file.samplerate, file.frames, file.extra_info
            _require_track(path, channels=file.channels, rate=rate)
            if file.format in ("MP3", "MPEG") or file.subtype.startswith("MPEG_LAYER"):  # the latter also in a WAV
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
    """An open MP3, opened again with the true number of frames if its header states none or too few."""
    counted = count_frames(path)
    if counted is None or counted.samples == 0:
        return file
    if counted.stated is not None and counted.samples < counted.stated - counted.slack and not counted.has_info:
        value = f"{counted.samples} samples instead of {counted.stated}"
        raise AudioError("the file ends before its header says", where=path, value=value, remedy=_REFETCH)
    known = file.frames if counted.stated is None or not counted.has_info else counted.stated
    if counted.samples <= known + counted.slack and counted.has_info and counted.stated is not None:
        return file
    remedy = "decode it once, for example `ffmpeg -i old.mp3 new.flac`"
    if counted.problem is not None:
        raise AudioError("the file cannot be read to its end", where=path, value=counted.problem, remedy=remedy)
    if abs(file.frames - counted.samples) <= counted.slack:
        file.samples_a_frame = counted.first.samples
        return file
    if counted.first.layer != 3:
        value = f"{counted.samples} samples in its frames, {file.frames} by libsndfile's estimate"
        raise AudioError("the file does not state its length", where=path, value=value, remedy=remedy)
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
    """(sample rate, samples) of the header. AudioError as from `open_track`."""
    with open_track(path) as file:
        return file.samplerate, file.frames


def _unreadable(path: Path, error: Exception) -> AudioError:
    reason = getattr(error, "error_string", None) or str(error)
    if isinstance(error, PermissionError) or not os.access(path, os.R_OK):
        what, remedy = "the current user may not read this file", "check its permissions"
        return AudioError(what, where=path, value=reason, remedy=remedy)
    remedy = "convert it to a format that libsndfile reads (WAV, FLAC, OGG, Opus, MP3, AIFF), for example with ffmpeg"
    return AudioError("the file cannot be read as audio", where=path, value=reason, remedy=remedy)


def _require_track(path: Path, *, channels: int, rate: int) -> None:
    if channels > MAX_CHANNELS:
        what, remedy = "the file is neither mono nor stereo", "mix it down, or split it into stereo files, first"
        raise AudioError(what, where=path, value=f"{channels} channels", remedy=remedy)
    lowest, highest = RATES
    if not lowest <= rate <= highest:
        what = "the sample rate is not one of audio: the header is damaged, or this is not a recording of sound"
        remedy = f"resample it to a rate from {lowest:,} to {highest:,} Hz, or leave it out"
        raise AudioError(what, where=path, value=f"{rate} Hz", remedy=remedy)


def _require_length(path: Path, *, rate: int, num_samples: int, log: str) -> None:
    if num_samples == 0:
        remedy = "fetch it again, or leave it out"
        raise AudioError("the file holds no samples", where=path, value="0 samples", remedy=remedy)
    if num_samples == UNKNOWN_LENGTH:
        what, remedy = "the file does not state its length", "rewrite it, for example `ffmpeg -i old.flac new.flac`"
        raise AudioError(what, where=path, value="no length in its header", remedy=remedy)
    # libsndfile shortens the length of a truncated WAV to what is there, and reports it only in its log.
    for match in _SHORTENED.finditer(log):
        promised, found = int(match[1]), int(match[2])
        missing_seconds = (promised - found) / found * num_samples / rate
        if promised < STREAMED_BYTES and missing_seconds > LENGTH_TOLERANCE_SECONDS:
            value = f"{found} bytes instead of {promised}"
            raise AudioError("the file ends before its header says", where=path, value=value, remedy=_REFETCH)


# "data" appears for WAV, "SSND" for AIFF, "Data Size" for AU, "riff" for W64, "Riff size" for RF64.
_SHORTENED = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_REFETCH = "fetch it again: it is probably truncated"
