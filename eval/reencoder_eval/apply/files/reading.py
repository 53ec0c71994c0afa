"""A sound file of any format -> scratch and survey; what soundfile cannot read, ffmpeg decodes where it is there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from reencoder_eval.apply.files.scratch import BLOCK, Samples, Scratch
from reencoder_pipeline.audio.read import audio_header, length_slack, open_track
from reencoder_pipeline.audio.sound_lengths import has_id3_chunk
from reencoder_pipeline.audio.survey import Survey, Surveyor
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.programs import run_program
from reencoder_pipeline.safe_text import file_kind

FFMPEG_SECONDS = 1800
HIDDEN = ".reencoder-"  # how the names of unfinished things begin


@dataclass(frozen=True)
class Sound:
    """A decoded file. `format` and `subtype` are soundfile's names, None where ffmpeg has decoded."""

    path: Path
    rate: int
    audio: Scratch
    survey: Survey
    format: str | None
    subtype: str | None
    tags: Mapping[str, str] = field(default_factory=dict)  # title, artist, album ..., as far as libsndfile reads them
    has_other_tags: bool = False  # in an ID3 chunk, which libsndfile does not read


def sound_seconds(path: Path) -> float:
    """For the progress bar alone: what the header says, or 0."""
    try:
        rate, num_samples = audio_header(path)
    except AudioError:
        return 0.0
    return num_samples / rate


@contextmanager
def opened(path: Path, *, folder: Path) -> Iterator[Sound]:
    """Read the whole file once, into scratch in `folder`, and survey it on the way.

    AudioError as from `read_audio`: unreadable, empty, more than two channels, not finite, shorter than it says.
    """
    with _readable(path, folder) as (readable, native):
        try:
            with open_track(readable) as file:
                sound_format, subtype, tags = file.format, file.subtype, file.copy_metadata()
                other = has_id3_chunk(readable)
                rate, promised, slack = file.samplerate, file.frames, length_slack(file)
                audio = Scratch(file.channels, folder=folder)
                surveyor = Surveyor(rate, file.channels)
                for block in _blocks(file, path):
                    audio.append(block)
                    surveyor.add(block)
        except AudioError as error:
            raise AudioError(error.what, where=path, value=error.value, remedy=error.remedy) from None
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError("cannot be read as audio", where=path, value=error, remedy="fetch it again") from None
    with audio:
        if abs(len(audio) - promised) > slack or len(audio) == 0:
            raise AudioError(
                "decodes to another length than its header says",
                where=path,
                value=f"{len(audio)} samples instead of {promised}",
                remedy="the file is probably truncated: fetch it again",
            )
        kind = (sound_format, subtype) if native else (None, None)
        yield Sound(path, rate, audio, surveyor.result(), *kind, tags, has_other_tags=other)


def _blocks(file: soundfile.SoundFile, path: Path) -> Iterator[Samples]:
    """(channels, samples); a read stops at a gap in an Ogg stream while the one after it goes on: read until none."""
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise AudioError(
                "the file holds values that are not numbers", where=path, remedy="make it again from its source"
            )
        yield np.ascontiguousarray(block.T, dtype=np.float32)  # (samples, channels) -> (channels, samples)


@contextmanager
def _readable(path: Path, folder: Path) -> Iterator[tuple[Path, bool]]:
    """A file that soundfile reads: this one (True), or what ffmpeg makes of it."""
    if file_kind(path) != "a file":
        audio_header(path)  # raises: a FIFO or a device is not opened
    try:
        soundfile.info(os.fsencode(path))  # type: ignore[arg-type], bytes are read
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        if not path.is_file() or not os.access(path, os.R_OK):
            audio_header(path)  # raises, and says it better
        if path.stat().st_size == 0:
            raise AudioError("the file is empty", where=path, value="0 bytes", remedy="fetch it again") from None
        reason = getattr(error, "error_string", None) or str(error)
    else:
        yield path, True
        return
    with tempfile.TemporaryDirectory(prefix=HIDDEN, dir=folder) as temporary:
        yield _by_ffmpeg(path, Path(temporary) / "decoded.wav", reason=reason), False


def _by_ffmpeg(path: Path, decoded: Path, *, reason: str) -> Path:
    """The first sound of a file as 32-bit float. Without a shell, without any protocol but files, without stdin."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            "cannot be read as audio by libsndfile, and there is no ffmpeg to try",
            where=path,
            value=reason,
            remedy="install ffmpeg, so that `ffmpeg` is found on the PATH, or convert the file to WAV or FLAC",
        )
    source = ["-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    # Not W64: libsndfile takes ffmpeg's floats in it for integers.
    quiet = [program, "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror"]
    sink = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "pcm_f32le", "-f", "wav", "-rf64", "auto"]
    done = run_program([*quiet, *source, *sink, f"file:{decoded}"], timeout=FFMPEG_SECONDS)
    if done.code is None:
        raise AudioError("ffmpeg did not end", where=path, value=f"{FFMPEG_SECONDS} s", remedy="convert the file first")
    if done.code != 0 or not decoded.exists():
        said = done.said.splitlines() or [f"exit code {done.code}"]
        raise AudioError(
            "cannot be read as audio, neither by libsndfile nor by ffmpeg",
            where=path,
            value=f"{reason} / {said[0][:300]}",
            remedy="fetch it again, or convert it to WAV or FLAC",
        )
    return decoded
