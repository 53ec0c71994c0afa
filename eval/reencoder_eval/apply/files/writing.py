"""Writes output files: chooses container and depth, turns down or reports what would clip, and renames at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile

from reencoder_eval.apply.files.latents_io import NPY
from reencoder_eval.apply.files.reading import Sound
from reencoder_eval.apply.files.scratch import Samples, Scratch
from reencoder_pipeline.errors import AudioError, CacheError, ConfigError
from reencoder_pipeline.safe_text import read_json
from reencoder_pipeline.stores.atomic import replacing

Depth = Literal["16", "24", "float"]
Peaks = Literal["scale", "float"]
SUFFIXES = {"wav": "WAV", "flac": "FLAC", "aiff": "AIFF", "caf": "CAF", "w64": "W64", "mp3": "MP3", "ogg": "OGG"}
LOSSLESS = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "CAF", "AU"}
LARGEST_WAV = 4 * 10**9  # bytes; a RIFF header cannot count beyond 4 GiB
SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}
TAGS = ("title", "artist", "album", "tracknumber", "date", "genre", "comment", "copyright", "license")
BITS = {"PCM_16": 16, "PCM_24": 24}


@dataclass(frozen=True)
class Form:
    """The form that the user asks for: `format` is a key of SUFFIXES; None takes the input's, also for `depth`."""

    format: str | None = None
    depth: str | None = None
    peaks: str = "scale"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--format", self.format, tuple(SUFFIXES)),
            ("--depth", self.depth, get_args(Depth)),
            ("--peaks", self.peaks, get_args(Peaks)),
        ):
            if value is not None and value not in known:
                raise ConfigError("unknown value", where=name, value=value, remedy=f"one of: {', '.join(known)}")
        if self.format == "flac" and self.depth == "float":
            raise ConfigError("FLAC holds no float samples", where="--depth", value="float", remedy="use --format wav")


@dataclass(frozen=True)
class Container:
    """soundfile's names for a file to be written, and its suffix."""

    suffix: str
    format: str
    subtype: str | None

    @property
    def bits(self) -> int | None:
        """Bits of an integer sample; None for float and for lossy formats."""
        return BITS.get(self.subtype or "")


def container_of(sound: Sound, form: Form) -> Container:
    """The container of the input if it is lossless and can be written; FLAC for lossy inputs and those ffmpeg reads.

    An MP3 or Ogg encoder would cut off again what has been restored (libsndfile's MP3 keeps 17.6 kHz of white noise):
    they are only written for --format. Integer samples keep their depth, except that 8 bits become 16 and 32
    become 24. Float stays float; lossy formats become 16 bits.
    """
    known = {"PCM_24": "24", "PCM_32": "24", "FLOAT": "float", "DOUBLE": "float", "ALAC_24": "24", "ALAC_32": "24"}
    depth = form.depth or known.get(sound.subtype or "", "16")
    if form.format is not None:
        suffix, name = f".{form.format}", SUFFIXES[form.format]
    elif sound.format in LOSSLESS:
        suffix, name = sound.path.suffix, sound.format
    else:
        suffix, name = ".flac", "FLAC"
    if name == "FLAC" and depth == "float":
        suffix, name = (".wav", "WAV") if form.format is None and form.depth == "float" else (suffix, name)
        depth = depth if name == "WAV" else "24"
    if name in ("MP3", "OGG"):
        return Container(suffix, name, None)
    return Container(suffix, name, SUBTYPES[depth])


def write_sound(
    audio: Scratch,
    rate: int,
    path: Path,
    *,
    container: Container,
    peaks: str,
    overwrite: bool = True,
    tags: Mapping[str, str] | None = None,
) -> tuple[Path, list[str]]:
    """Write (channels, samples) and `tags`. Returns the path, whose suffix changes if peaks are kept as float, and
    messages, one of which names the tags that the written file does not hold.

    Integer samples above full scale would be clipped: all of the file is turned down, or written as float. AudioError
    where any sample is not a finite number, and, unless `overwrite`, where the file exists.
    """
    highest, lowest = _extremes(audio, path)
    peak = max(highest, -lowest)
    gain, notices, over = 1.0, [], f"peak {peak:.3f}, {20 * np.log10(max(peak, 1e-9)):+.1f} dBFS"
    # Integers reach from -1 to one step below 1; what is less than half a step above is rounding, not clipping.
    step = 0.0 if container.bits is None else 2.0 ** (1 - container.bits)
    over_full_scale = highest > 1 - step / 2 or lowest < -1 - step / 2
    if over_full_scale and container.subtype == "FLOAT":
        notices = [over]
    elif over_full_scale and peaks == "float":
        container = Container(".wav", "WAV", "FLOAT")
        path = path.with_suffix(".wav")
        notices = [f"{over}: written as float"]
    elif over_full_scale:
        gain = (1 - step) / peak
        notices = [f"{over}: all of it turned down by {-20 * np.log10(gain):.2f} dB"]
    name = container.format
    if name == "WAV" and len(audio) * audio.width * 4 > LARGEST_WAV:
        name = "RF64"
    require_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        try:
            with soundfile.SoundFile(
                os.fsencode(beside),  # type: ignore[arg-type], bytes are read
                "w",
                samplerate=rate,
                channels=audio.width,
                format=name,
                subtype=container.subtype,
            ) as file:
                _put_tags(file, tags or {})
                for start, stop in audio.blocks():
                    file.write(_samples(gain * audio.read(start, stop), container.bits).T)
            # libsndfile does not report every write that fails.
            with soundfile.SoundFile(os.fsencode(beside)) as file:  # type: ignore[arg-type]
                written, kept = file.frames, file.copy_metadata()
        except (soundfile.SoundFileError, RuntimeError, AssertionError, ValueError) as error:
            raise AudioError(
                "cannot be written", where=path, value=error or "not all of it was written",
                remedy="make room, or choose another --format",
            ) from None  # fmt: skip
        if name in LOSSLESS and written != len(audio):
            raise AudioError(
                "cannot be written", where=path, value=f"{written} of {len(audio)} samples", remedy="make room"
            )
    lost = [key for key in TAGS if tags and tags.get(key) and kept.get(key) != tags[key]]
    if lost:
        notices.append(f"tags that were not carried over into {name}: {', '.join(lost)}")
    return path, notices


def _put_tags(file: soundfile.SoundFile, tags: Mapping[str, str]) -> None:
    """Write the tags that libsndfile can put into this format."""
    for key in TAGS:
        if value := tags.get(key):
            with contextlib.suppress(RuntimeError, ValueError):
                setattr(file, key, value)


def _extremes(audio: Scratch, path: Path) -> tuple[float, float]:
    """The highest and the lowest sample, 0 where there is none. Python's max and min would pass over a NaN."""
    highest = lowest = 0.0
    for start, stop in audio.blocks():
        block = audio.read(start, stop)
        if not np.isfinite(block).all():
            raise AudioError(
                "the output would hold values that are not finite numbers", where=path,
                value=f"the first between {start / len(audio):.0%} and {stop / len(audio):.0%} of its length",
                remedy="the module or the autoencoder overflows on this input: turn it down, or use another module",
            )  # fmt: skip
        highest, lowest = max(highest, float(block.max())), min(lowest, float(block.min()))
    return highest, lowest


def _samples(block: Samples, bits: int | None) -> np.ndarray:
    """Integers of full scale 2**(bits - 1), left-aligned in int32 for 24 bits.

    libsndfile's own conversion multiplies by one less than that, and would not give samples back as they were read.
    """
    if bits is None:
        return block
    full = 2 ** (bits - 1)
    whole = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
    return whole.astype(np.int16) if bits == 16 else (whole.astype(np.int32) << 8)


def copy_file(source: Path, path: Path, *, overwrite: bool = True) -> None:
    """Copy a file. AudioError if `path` exists, unless `overwrite`."""
    require_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        shutil.copyfile(source, beside)


def require_free(path: Path, *, overwrite: bool) -> None:
    """AudioError unless `path`, and for .npy the .json beside it, may be written: absent, or to be replaced. A .json
    of ours alone was left by a call that was killed."""
    if path.is_dir():
        raise AudioError("a folder has the name of the output", where=path, remedy="choose another --out folder")
    if overwrite:
        return
    header = path.with_suffix(".json")
    if os.path.lexists(path):
        raise AudioError("the output exists", where=path, remedy="--overwrite replaces it")
    if path.suffix == NPY and os.path.lexists(header) and not _is_header(header):
        remedy = "move it away, or --overwrite replaces it"
        raise AudioError("another file has the name of what goes beside the output", where=header, remedy=remedy)


def _is_header(path: Path) -> bool:
    try:
        values = read_json(path, kind=CacheError)
    except CacheError:
        return False
    return isinstance(values, dict) and {"spec", "streams"} <= values.keys()
