"""Counts the frames of an MP3 file whose header does not state their number, and lets libsndfile read all of them.

libmpg123 guesses the length of a file without an Info frame from the size of its first frames, and libsndfile reads no
further than that guess. A file of variable bit rate lost two thirds of its sound that way.
"""

from __future__ import annotations

import io
import mmap
from dataclasses import dataclass
from pathlib import Path

# _KBITS: kbit/s by (is MPEG-1, layer). _RATES: Hz by version bits.
_FIRST_1 = (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448)
_FIRST_2 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_FIRST_3 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_SECOND_1 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_SECOND_23 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBITS = {(True, 1): _FIRST_1, (True, 2): _FIRST_2, (True, 3): _FIRST_3}
_KBITS |= {(False, 1): _SECOND_1, (False, 2): _SECOND_23, (False, 3): _SECOND_23}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_STATED_SLACK = 4096  # bytes by which the size in an Info frame may be wrong: programs count tags differently
FARTHEST = 2**20  # bytes to search for the next frame
PLACES = 16  # places in a file where frames are compared with the number in its Info frame
SLACK_FRAMES = 3  # an encoder's delay, and frames that need bits of one that was cut off


@dataclass(frozen=True)
class Frame:
    """The header of one frame; `size` in bytes, 0 if the header does not state it (free format)."""

    size: int
    samples: int
    layer: int
    kind: tuple[int, int, bool]  # version, rate, mono: the same in all frames of a recording


@dataclass(frozen=True)
class Mp3:
    """The frames of music in a file: the first one's byte position `start`, and the `samples` they decode to.

    `stated` is the number of samples in the file's header, None without one; libmpg123 reads an Info frame but no VBRI
    frame. `problem` says why part of the file cannot be decoded.
    """

    start: int
    first: Frame
    samples: int
    stated: int | None
    has_info: bool
    problem: str | None = None

    @property
    def slack(self) -> int:
        return SLACK_FRAMES * self.first.samples


def count_frames(path: Path) -> Mp3 | None:
    """Count a file's frames one by one; None if its Info frame can be trusted.

    It can if it states the file's size in bytes, and a number of frames that fits that size."""
    if path.stat().st_size < 4:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = _end(data)
        start = _next(data, after_tags(data, 0, end), end)
        first = None if start is None else frame_at(data, start)
        if start is None or first is None:
            return None
        frames, size = _stated(data, start, first)
        if frames and size and end - start <= size + _STATED_SLACK and _is_plausible(data, start, end, frames):
            return None
        return _count(data, start, end, frames)


def _is_plausible(data: mmap.mmap, start: int, end: int, frames: int) -> bool:
    """Whether about so many frames fit between two bytes, estimated from a few frames at several places."""
    per_byte: list[float] = []
    for number in range(PLACES):
        at = first = _next(data, start + number * (end - start) // PLACES, end)
        seen = 0
        while at is not None and seen < PLACES and (frame := frame_at(data, at)) and frame.size:
            seen, at = seen + 1, at + frame.size
        if at is not None and first is not None and seen:
            per_byte.append(seen / (at - first))
    estimate = (end - start) * sum(per_byte) / max(1, len(per_byte))
    return abs(frames - estimate) <= 0.1 * estimate


def _count(data: mmap.mmap, start: int, end: int, stated: int | None) -> Mp3:
    first = frame_at(data, start)
    assert first is not None, "the caller found a frame there"
    place = _place_of_info(start, first)
    has_info = first.layer == 3 and data[place : place + 4] in (b"Xing", b"Info")
    at, samples, problem = start, 0, None
    if has_info or stated is not None:
        at += first.size
    origin = at
    while at < end:
        frame = frame_at(data, at)
        if frame is None or frame.size == 0:
            if frame is not None and frame.size == 0:
                problem = problem or "its frames do not state their size (free format)"
            following = _next(data, after_tags(data, at, end), end)
            if following is None or following <= at:
                break
            at = following
            continue
        if at + frame.size > end:
            break  # the last frame is incomplete
        if frame.kind != first.kind:
            problem = problem or f"recordings of different kinds follow each other, the second from byte {at:,} on"
        samples += frame.samples
        at += frame.size
    promised = None if stated is None else stated * first.samples
    return Mp3(origin, first, samples, promised, has_info, problem)


def frame_at(data: bytes | mmap.mmap, at: int) -> Frame | None:
    """The frame whose header is at byte `at`; None for other bytes."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer, rate_index, bits_index = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bits_index == 15:
        return None
    rate, padding = _RATES[version][rate_index], head[2] >> 1 & 1
    bits = 1000 * _KBITS[version == 3, layer][bits_index]
    samples = {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]
    slot = 4 if layer == 1 else 1
    size = 0 if bits == 0 else (samples // (8 * slot) * bits // rate + padding) * slot
    return Frame(size, samples, layer, (version, rate, head[3] >> 6 == 3))


def _next(data: mmap.mmap, at: int, end: int) -> int | None:
    """The first byte from `at`, within FARTHEST, where two frames follow each other or the last frame lies."""
    begin, last = at, end
    end = min(end, at + FARTHEST)
    while (at := data.find(b"\xff", at, end)) >= 0:
        frame = frame_at(data, at)
        if frame is not None and frame.size > 0:
            behind = at + frame.size
            following = frame_at(data, behind)
            if behind == last or (following is not None and following.kind == frame.kind):
                return at
        elif frame is not None and at < begin + 4096 and _is_free_format(data, at, frame):
            return at
        at += 1
    return None


def _is_free_format(data: mmap.mmap, at: int, frame: Frame) -> bool:
    """Whether the same header, apart from its padding, returns twice at equal distances."""
    head, far = data[at : at + 2], 8192
    second = data.find(head, at + 4, at + far)
    while second >= 0:
        distance = second - at
        third = [frame_at(data, second + distance + extra) for extra in (-1, 0, 1)]
        if any(one is not None and one.size == 0 and one.kind == frame.kind for one in third):
            return True
        second = data.find(head, second + 1, at + far)
    return False


def after_tags(data: mmap.mmap, at: int, end: int) -> int:
    """The byte behind all ID3v2, ID3v1 and APE tags that begin at byte `at`."""
    while at < end:
        head = data[at : at + 32]
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
            footer = 10 if head[5] & 0x10 else 0
            at += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + footer
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            is_header = head[23] & 0x20
            at += 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
        elif head[:3] == b"TAG" and frame_at(data, at) is None and (at + 128 >= end or _begins(data, at + 128)):
            at += 128
        else:
            break
    return min(at, end)


def _begins(data: mmap.mmap, at: int) -> bool:
    return data[at : at + 3] in (b"ID3", b"APE") or frame_at(data, at) is not None


def _end(data: mmap.mmap) -> int:
    """The byte where the tags at the end of the file begin: ID3v1, APE and Lyrics3, in any order."""
    end, before = len(data), -1
    while end != before:
        before = end
        if end >= 128 and data[end - 128 : end - 125] == b"TAG":
            end -= 128
        elif end >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
            size = int.from_bytes(data[end - 20 : end - 16], "little") + (32 if data[end - 9] & 0x80 else 0)
            end -= size if 32 <= size <= end else 32
        elif end >= 15 and data[end - 9 : end] == b"LYRICS200" and data[end - 15 : end - 9].isdigit():
            end -= min(end, int(data[end - 15 : end - 9]) + 15)
    return end


def _place_of_info(start: int, frame: Frame) -> int:
    """The byte of an Info frame's name, behind its (empty) side information."""
    return start + 4 + _side_bytes(frame)


def _side_bytes(frame: Frame) -> int:
    version, _, mono = frame.kind
    return (17 if mono else 32) if version == 3 else (9 if mono else 17)


def _stated(data: mmap.mmap, start: int, frame: Frame) -> tuple[int | None, int | None]:
    """(frames, bytes) stated by an Info frame; only frames from a VBRI frame, which libmpg123 does not read."""
    if frame.layer != 3:
        return None, None
    at = _place_of_info(start, frame)
    if data[at : at + 4] in (b"Xing", b"Info"):
        flags, at = int.from_bytes(data[at + 4 : at + 8], "big"), at + 8
        frames = int.from_bytes(data[at : at + 4], "big") if flags & 1 else None
        at += 4 if flags & 1 else 0
        return frames or None, int.from_bytes(data[at : at + 4], "big") if flags & 2 else None
    if data[start + 36 : start + 40] == b"VBRI":
        return int.from_bytes(data[start + 50 : start + 54], "big") or None, None
    return None, None


class WithInfo(io.RawIOBase):
    """Presents the file as if it began with an Info frame that states the true number of frames. Close it after use."""

    def __init__(self, path: Path, counted: Mp3) -> None:
        super().__init__()
        self._file, self._start, self._at = path.open("rb"), counted.start, 0
        self._info = _info_frame(path, counted)
        self._length = len(self._info) + path.stat().st_size - counted.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self._info[self._at : self._at + len(buffer)]
        if not part:
            self._file.seek(self._start + self._at - len(self._info))
            part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def _info_frame(path: Path, counted: Mp3) -> bytes:
    """Make an Info frame: like the first frame but empty, large enough and without a checksum."""
    with path.open("rb") as file:
        file.seek(counted.start)
        head = bytearray(file.read(4))
    head[1] |= 1
    head[2] = 0x90 | head[2] & 0x0C  # 128 or 80 kbit/s, no padding
    frame = frame_at(bytes(head), 0)
    assert frame is not None, "it was made from a frame"
    content = bytes(head) + bytes(_side_bytes(frame)) + b"Info" + (1).to_bytes(4, "big")
    content += (counted.samples // frame.samples).to_bytes(4, "big")
    return content + bytes(frame.size - len(content))
