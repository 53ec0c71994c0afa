"""Finds sound that a file's header does not count: libsndfile would ignore it without an error.

Most formats only need their chunks' headers read. FLAC and Ogg files are searched for a second recording: 0.1 s for
100 MB.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reencoder_pipeline.audio.mp3_frames import after_tags
from reencoder_pipeline.errors import AudioError

STREAMED_BYTES = 0x7FFFF000  # programs write this size, or a larger one, into a WAV file whose end they do not know
# Chunks that may follow the sound even if their own size is wrong.
_KNOWN = frozenset(
    b"LIST|id3 |ID3 |id3\0|bext|cue |smpl|inst|fact|PEAK|iXML|aXML|_PMX|JUNK|junk|PAD |FLLR|afsp|cart|chna|acid|strc|"
    b"levl|DISP|umid|NAME|AUTH|ANNO|COMT|(c) |MARK|INST|APPL|info|mark|regn|peak|free|uuid".split(b"|")
)
# Chunks that begin another recording.
_OTHER_SOUND = frozenset([b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"data", b"SSND", b"riff", b".snd", b"fLaC"])
LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page
_FILLING = 4096  # bytes of zeros allowed at the end of a file: one block of a disk or a tape


@dataclass(frozen=True)
class _Form:
    """How a container's chunks are written. `size_holds_head`: their size includes their head, as in W64."""

    head: int
    order: str
    align: int
    first: int
    data: bytes
    size_holds_head: bool = False


_RIFF = _Form(8, "little", 2, 12, b"data")
_FORMS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"RIFX": _Form(8, "big", 2, 12, b"data"),
    b"FORM": _Form(8, "big", 2, 12, b"SSND"),
    b"caff": _Form(12, "big", 1, 8, b"data"),
    b"riff": _Form(24, "little", 8, 40, b"data", size_holds_head=True),
}


def require_all_counted(path: Path, *, rate: int, num_samples: int, tolerance_seconds: float) -> None:
    """Raise an AudioError if the file holds sound that its header does not count, or a second recording."""
    if path.stat().st_size < 12:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        kind = data[:4]
        if kind in _FORMS:
            counted = _uncounted(data, _FORMS[kind])
        elif kind in (b".snd", b"dns."):
            counted = _uncounted_of_au(data, "big" if kind == b".snd" else "little")
        elif kind[:3] == b"ID3" or kind == b"fLaC":
            if (first := after_tags(data, 0, len(data))) < len(data) and data[first : first + 4] == b"fLaC":
                _require_one_flac(
                    path, data, first, rate=rate, num_samples=num_samples, tolerance_seconds=tolerance_seconds
                )
            return
        elif kind == b"OggS":
            _require_last_page(path, data)
            _require_one_ogg(path, data)
            return
        else:
            return
    if counted is None:
        return
    promised, there = counted
    if promised == 0 or (there - promised) / promised * num_samples / rate > tolerance_seconds:
        raise AudioError(
            "the file holds more than its header says: a recorder broke off, a length over 4 GiB wrapped, or two files "
            "were joined",
            where=path,
            value=f"{promised} bytes of sound by the header, and {there - promised} bytes behind them",
            remedy="rewrite it, for example `ffmpeg -ignore_length 1 -i old.wav -rf64 auto new.wav`",
        )


def has_id3_chunk(path: Path) -> bool:
    """Whether a container of chunks, such as WAV or AIFF, holds a chunk of ID3 tags."""
    if path.stat().st_size < 12:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        form = _FORMS.get(data[:4])
        return form is not None and any(name.lower() == b"id3 " for name, _, _ in _chunks(data, form, form.first))


def _uncounted(data: mmap.mmap, form: _Form) -> tuple[int, int] | None:
    """(bytes of sound by the header, bytes from their beginning to the end of the file); None if they agree."""
    large = None
    for name, at, size in _chunks(data, form, form.first):
        if name == b"ds64":
            large = int.from_bytes(data[at + 8 : at + 16], "little")
        elif name == form.data:
            if size == 0xFFFFFFFF and large is not None and data[:4] == b"RF64":
                size = large
            unknown = size < 0 or (data[:4] == b"caff" and size >= 2**63)
            if unknown or at + size >= len(data):
                return None  # it reaches the end of the file, or is truncated, which `read.py` reports
            return None if _is_accounted(data, at + size, form, odd=size % 2) else (size, len(data) - at)
    return None


def _chunks(data: mmap.mmap, form: _Form, at: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, position of its content, size of its content) of each chunk from `at`."""
    while at + form.head <= len(data):
        name, size, content = _head(data, form, at)
        yield name, content, size
        if size < 0:
            return
        at = -(-(content + size) // form.align) * form.align


def _head(data: mmap.mmap, form: _Form, at: int) -> tuple[bytes, int, int]:
    length = {8: 4, 12: 8, 24: 8}[form.head]
    size = int.from_bytes(data[at + form.head - length : at + form.head], "little" if form.order == "little" else "big")
    return data[at : at + 4], size - form.head if form.size_holds_head else size, at + form.head


def _is_accounted(data: mmap.mmap, at: int, form: _Form, *, odd: int) -> bool:
    """Whether only further chunks, tags or a little filling follow byte `at`."""
    aligned = -(-at // form.align) * form.align
    return _are_chunks(data, aligned, form) or (bool(odd) and aligned != at and _are_chunks(data, at, form))


def _are_chunks(data: mmap.mmap, at: int, form: _Form) -> bool:
    end = len(data)
    while end - at >= form.head:
        name, size, content = _head(data, form, at)
        if name[:3] in (b"TAG", b"ID3", b"APE", b"LYR") and not (name in _KNOWN and content + size <= end):
            return True
        if name in _OTHER_SOUND or not all(32 <= byte < 127 for byte in name.rstrip(b"\0") or b"\0"):
            return end - at <= _FILLING and not any(data[at:end])
        if size < 0 or content + size > end:
            return name in _KNOWN
        at = content + size
        if at % form.align and at < end and not _plausible(data, -(-at // form.align) * form.align, form):
            continue  # written without the byte that makes it even
        at = -(-at // form.align) * form.align
    return True


def _plausible(data: mmap.mmap, at: int, form: _Form) -> bool:
    return len(data) - at < form.head or all(32 <= byte < 127 for byte in data[at : at + 4])


def _uncounted_of_au(data: mmap.mmap, order: Literal["big", "little"]) -> tuple[int, int] | None:
    first, size = (int.from_bytes(data[at : at + 4], order) for at in (4, 8))
    if size == 0xFFFFFFFF or first + size >= len(data):
        return None
    rest = len(data) - first - size
    return None if rest <= _FILLING and not any(data[first + size :]) else (size, len(data) - first)


def _require_last_page(path: Path, data: mmap.mmap) -> None:
    """Raise an AudioError if the last page ends behind the end of the file."""
    last = data.rfind(b"OggS\0", max(0, len(data) - LARGEST_PAGE))
    if last < 0 or data[last + 14 : last + 18] != data[14:18] or _page_end(data, last) <= len(data):
        return  # these bytes begin a page only if the stream's number follows
    value = f"{len(data) - last} bytes of its last page instead of {_page_end(data, last) - last}"
    remedy = "fetch it again: it is probably truncated"
    raise AudioError("the file ends before its last page does", where=path, value=value, remedy=remedy)


def _require_one_ogg(path: Path, data: mmap.mmap) -> None:
    """Raise an AudioError for several streams in sequence: libsndfile reads only the first."""
    at = 0
    while data[at : at + 4] == b"OggS" and data[at + 5] & 2:
        at = _page_end(data, at)
    places = [data.find(b"OggS\0" + bytes([flags]), at) for flags in (2, 6)]
    for place in sorted(place for place in places if place >= 0):
        behind = _page_end(data, place)
        if behind == len(data) or data[behind : behind + 4] == b"OggS":
            raise AudioError(
                "the file holds several streams in sequence (a chained Ogg), of which only the first would be read",
                where=path,
                value=f"another one begins at byte {place}",
                remedy="cut it into its parts, or rewrite it, for example `ffmpeg -i old.ogg new.flac`",
            )


def _page_end(data: mmap.mmap, at: int) -> int:
    segments = data[at + 26] if at + 26 < len(data) else 0
    return at + 27 + segments + sum(data[at + 27 : at + 27 + segments])


def _require_one_flac(
    path: Path, data: mmap.mmap, first: int, *, rate: int, num_samples: int, tolerance_seconds: float
) -> None:
    """Raise an AudioError for a second stream, or for frames whose numbers pass the header's length.

    The stream begins at byte `first`, behind tags."""
    remedy = "rewrite it, for example `ffmpeg -i old.flac new.flac`"
    for mark in (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22"):
        if (place := data.find(mark, first + 42)) >= 0:
            what = "the file holds several streams in sequence, of which only the first would be read"
            raise AudioError(what, where=path, value=f"another one begins at byte {place}", remedy=remedy)
    block_size, largest = (int.from_bytes(data[first + at : first + end], "big") for at, end in ((8, 10), (15, 18)))
    tail = max(first + 42, len(data) - (4 * largest or 2**18))
    places = set(_flac_positions(data[tail:], block_size))
    # Bytes that only look like a frame have no neighbour one block before them.
    last = max((at for at, size in places if any(before + length == at for before, length in places)), default=0)
    if last > num_samples + tolerance_seconds * rate:
        value = f"{num_samples} samples by the header, and frames up to sample {last}"
        raise AudioError("the file holds more than its header says", where=path, value=value, remedy=remedy)


def _flac_positions(tail: bytes, block_size: int) -> Iterator[tuple[int, int]]:
    """(first sample, number of samples) of everything that looks like a frame's header."""
    at = -1
    while (at := tail.find(b"\xff", at + 1)) >= 0:
        head = tail[at : at + 16]
        if len(head) < 6 or head[1] not in (0xF8, 0xF9) or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1:
            continue
        number, length = _coded_number(head[4:])
        if length == 0:
            continue
        code, behind = head[2] >> 4, 4 + length
        if code in (6, 7):
            size = int.from_bytes(head[behind : behind + code - 5], "big") + 1
        else:
            size = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
        yield (number if head[1] == 0xF9 else number * block_size), size


def _coded_number(head: bytes) -> tuple[int, int]:
    """(number, length in bytes) of a number coded as in UTF-8; (0, 0) for other bytes."""
    first = head[0]
    if first < 0x80:
        return first, 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or len(head) < length or any(byte >> 6 != 2 for byte in head[1:length]):
        return 0, 0
    number = first & 0x7F >> length
    for byte in head[1:length]:
        number = number << 6 | byte & 0x3F
    return number, length
