"""Sound files whose header says nothing, too little or too much about their length: all of it is read, or refused."""

from __future__ import annotations

import io
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from reencoder_eval.apply.files.reading import opened, sound_seconds
from reencoder_pipeline.audio.mp3_frames import count_frames, frame_at
from reencoder_pipeline.audio.read import audio_header, open_track, read_audio, read_blocks, read_middle
from reencoder_pipeline.audio.survey import survey
from reencoder_pipeline.errors import AudioError

Values = NDArray[np.float32]
LIST = b"LIST" + struct.pack("<I", 11) + b"INFOabcdefg"


def sound(seconds: float, *, rate: int, channels: int, quiet: str = "") -> Values:
    """Noise and a tone, float32 (samples, channels); the first or last half 100 dB lower."""
    random, num_samples = np.random.default_rng(0), round(seconds * rate)
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(num_samples) / rate)
    audio = (tone[:, None] + 0.02 * random.standard_normal((num_samples, channels))).astype(np.float32)
    half = num_samples // 2
    if quiet:
        audio[slice(0, half) if quiet == "first" else slice(half, None)] *= 1e-5
    return audio


def encoded(
    kind: str, audio: Values | None = None, *, rate: int = 44_100, subtype: str | None = None, **options: Any
) -> bytes:
    buffer = io.BytesIO()
    audio = sound(1.5, rate=rate, channels=2) if audio is None else audio
    soundfile.write(buffer, audio, rate, format=kind, subtype=subtype, **options)
    return buffer.getvalue()


def written(folder: Path, name: str, content: bytes) -> Path:
    (path := folder / name).write_bytes(content)
    return path


def refusal(path: Path) -> str:
    """The same from every reader; it names the file and has a remedy."""
    with pytest.raises(AudioError) as caught:
        list(read_blocks(path))
    message = str(caught.value)
    assert str(path) in message
    assert caught.value.remedy
    with pytest.raises(AudioError):
        survey(path)
    with pytest.raises(AudioError), opened(path, folder=path.parent):
        pass
    return message


def without_info(content: bytes) -> bytes:
    frame = frame_at(content, 0)
    assert frame is not None
    assert b"LAME" in content[: frame.size]
    return content[frame.size :]


def mp3(
    *, rate: int = 44_100, channels: int = 2, mode: str = "VARIABLE", quiet: str = "", seconds: float = 12.0
) -> bytes:
    audio = sound(seconds, rate=rate, channels=channels, quiet=quiet)
    return encoded("MP3", audio, rate=rate, bitrate_mode=mode, compression_level=0.3)


@pytest.mark.parametrize("rate", [44_100, 22_050, 8_000])
@pytest.mark.parametrize("quiet", ["", "first", "last"])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_does_not_say_its_length_is_read_to_its_end(
    tmp_path: Path, rate: int, quiet: str, mode: str
) -> None:
    content = mp3(rate=rate, channels=1 if rate == 22_050 else 2, mode=mode, quiet=quiet)
    whole, path = written(tmp_path, "whole.mp3", content), written(tmp_path, "a.mp3", without_info(content))
    assert count_frames(whole) is None
    frame = 1152 if rate == 44_100 else 576
    expected = read_audio(whole)[0].shape[1]
    audio, its_rate = read_audio(path)
    assert its_rate == rate
    assert abs(audio.shape[1] - expected) <= 4 * frame  # the Info frame also told the encoder's delay
    assert abs(audio_header(path)[1] - audio.shape[1]) <= 3 * frame
    assert survey(path).num_samples == audio.shape[1]
    with opened(path, folder=tmp_path) as one:
        assert len(one.audio) == audio.shape[1]
    end = np.abs(audio[:, -rate:]).max()
    assert end < 0.01 if quiet == "last" else end > 0.1


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (b"", b"TAG" + bytes(125)),
        (b"ID3\3\0\0\0\0\1\0" + bytes(128), b""),
        (2 * (b"ID3\3\0\0\0\0\1\0" + bytes(128)), b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8)),
        (b"", b"LYRICSBEGIN" + b"000011LYRICS200" + b"TAG" + bytes(125)),
    ],
)
def test_tags_around_an_mp3_are_no_frames(tmp_path: Path, before: bytes, behind: bytes) -> None:
    content = without_info(mp3(quiet="first"))
    alone, tagged = written(tmp_path, "a.mp3", content), written(tmp_path, "b.mp3", before + content + behind)
    one, other = count_frames(alone), count_frames(tagged)
    assert one is not None
    assert other is not None
    assert one.samples == other.samples
    assert np.array_equal(read_audio(alone)[0], read_audio(tagged)[0])


@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125), b"ID3\3\0\0\0\0\1\0" + bytes(128)])
@pytest.mark.parametrize("rate", [44_100, 24_000])
def test_joined_mp3s_are_read_to_the_end_of_the_last(tmp_path: Path, tag: bytes, rate: int) -> None:
    first, second = mp3(rate=rate, seconds=4), mp3(rate=rate, seconds=6, quiet="first", mode="CONSTANT")
    for name, parts in (("with.mp3", (first, second)), ("without.mp3", (without_info(first), without_info(second)))):
        audio = read_audio(path := written(tmp_path, name, parts[0] + tag + parts[1]))[0]
        assert abs(audio.shape[1] - 10 * rate) < 8 * 1152
        assert np.abs(audio[:, -rate:]).max() > 0.1
        assert abs(audio_header(path)[1] - audio.shape[1]) <= 3 * 1152


def test_joined_mp3s_of_different_kinds_are_refused(tmp_path: Path) -> None:
    for other in (mp3(rate=48_000), mp3(channels=1)):
        assert "different kinds" in refusal(written(tmp_path, "a.mp3", mp3() + other))


def test_an_mp3_with_an_info_frame_gives_what_libsndfile_gives(tmp_path: Path) -> None:
    for mode in ("CONSTANT", "VARIABLE", "AVERAGE"):
        path = written(tmp_path, "a.mp3", mp3(mode=mode))
        assert np.array_equal(read_audio(path)[0], soundfile.read(path, dtype="float32")[0].T)


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_with_an_info_frame_that_is_cut_is_refused(tmp_path: Path, mode: str, keep: float) -> None:
    content = mp3(mode=mode)
    assert "another length than its header says" in refusal(
        written(tmp_path, "a.mp3", content[: round(keep * len(content))])
    )


def test_an_mp3_with_a_vbri_frame_is_counted_and_compared(tmp_path: Path) -> None:
    content = mp3(quiet="first")
    frame = frame_at(content, 0)
    assert frame is not None
    count = count_frames(written(tmp_path, "a.mp3", without_info(content)))
    assert count is not None
    frames = count.samples // frame.samples
    for stated in (frames, frames * 2):
        vbri = content[:36] + b"VBRI" + bytes(10) + stated.to_bytes(4, "big")
        path = written(tmp_path, "v.mp3", vbri + bytes(frame.size - len(vbri)) + without_info(content))
        if stated == frames:
            assert abs(read_audio(path)[0].shape[1] - count.samples) <= 3 * frame.samples
        else:
            assert "ends before its header says" in refusal(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_info_frame_that_counts_fewer_frames_than_its_bytes_hold_is_not_believed(
    tmp_path: Path, mode: str, share: float
) -> None:
    content = mp3(mode=mode, quiet="first")
    at = max(content.find(b"Xing", 0, 200), content.find(b"Info", 0, 200)) + 8
    fewer = round(share * int.from_bytes(content[at : at + 4], "big"))
    audio = read_audio(written(tmp_path, "a.mp3", content[:at] + fewer.to_bytes(4, "big") + content[at + 4 :]))[0]
    assert abs(audio.shape[1] - 12 * 44_100) < 4 * 1152
    assert np.abs(audio[:, -44_100:]).max() > 0.1


@pytest.mark.parametrize("quiet", ["", "last"])
def test_an_mp3_within_a_wav_is_counted_too(tmp_path: Path, quiet: str) -> None:
    content = without_info(mp3(quiet=quiet))
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 2, 44_100, 16_000, 1, 0, 12, 1, 2, 417, 1, 1393)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(content))
    path = written(tmp_path, "a.wav", b"RIFF" + struct.pack("<I", len(head) + len(content)) + head + content)
    alone = read_audio(written(tmp_path, "a.mp3", content))[0]
    assert abs(read_audio(path)[0].shape[1] - alone.shape[1]) <= 3 * 1152


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xfb\x00", b"\0"])
def test_megabytes_that_are_no_frames_are_passed_over_quickly(tmp_path: Path, filling: bytes) -> None:
    path = written(tmp_path, "a.mp3", without_info(mp3(seconds=2)) + filling * (30_000_000 // len(filling)))
    begun = time.process_time()
    count_frames(path)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("count", [60, 400])
def test_an_mp3_of_free_format_is_read_whole(tmp_path: Path, count: int) -> None:
    """Its frames are all of one size that is not written in them."""
    frame = bytes([0xFF, 0xFB, 0x00, 0xC4]) + bytes(996)
    path = written(tmp_path, "a.mp3", frame * count)
    assert abs(read_audio(path)[0].shape[1] - 1152 * count) <= 3 * 1152


def test_an_excerpt_of_an_mp3_without_a_length_may_lie_at_its_end(tmp_path: Path) -> None:
    path = written(tmp_path, "a.mp3", without_info(mp3(quiet="first")))
    with open_track(path, seekable=True) as file:
        file.seek(file.frames - 44_100)
        assert np.abs(file.read(44_100)).max() > 0.1
    pieces = [block for block, _ in read_middle(path, seconds=2.0)]
    assert sum(block.shape[1] for block in pieces) == 88_200


def wav_of(size: int, *, content: bytes | None = None) -> bytes:
    content = encoded("WAV", subtype="PCM_16") if content is None else content
    return content[:40] + struct.pack("<I", size) + content[44:]


def cut_header(kind: str) -> bytes:
    """A container whose header counts half of the sound."""
    endian = "LITTLE" if kind == "little AU" else "FILE"
    content = encoded(kind.removeprefix("little "), subtype="PCM_16", endian=endian)
    half = 4 * 33_075
    mark, form, offset, more = {
        "WAV": (b"data", "<I", 4, 0),
        "AIFF": (b"SSND", ">I", 4, 8),
        "CAF": (b"data", ">q", 4, 4),
        "W64": (b"data", "<q", 16, 24),
        "RF64": (b"ds64", "<q", 16, 0),
        "AU": (b".snd", ">I", 8, 0),
        "little AU": (b"dns.", "<I", 8, 0),
    }[kind]
    at = content.index(mark) + offset
    number = struct.pack(form, half + more)
    return content[:at] + number + content[at + len(number) :]


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "CAF", "W64", "RF64", "AU", "little AU"])
def test_sound_that_the_header_does_not_count_is_refused(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, f"a.{kind.lower()}", cut_header(kind))
    assert "holds more than its header says" in refusal(path)
    with pytest.raises(AudioError, match="holds more"):  # so that a plan already knows it
        audio_header(path)


def test_a_flac_whose_header_counts_less_than_its_frames_is_refused(tmp_path: Path) -> None:
    content = encoded("FLAC")
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36
    for counted, tag in ((30_000, b""), (60_000, b""), (30_000, b"ID3\3\0\0\0\0\1\0" + bytes(128))):
        shorter = content[:18] + (fields | counted).to_bytes(8, "big") + content[26:]
        path = written(tmp_path, "a.flac", tag + shorter)
        assert "holds more than its header says" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"), [("OGG", "VORBIS", 44_100), ("OGG", "OPUS", 48_000), ("FLAC", None, 44_100)]
)
def test_streams_behind_each_other_are_refused(tmp_path: Path, kind: str, subtype: str | None, rate: int) -> None:
    one = encoded(kind, rate=rate, subtype=subtype)
    other = encoded(kind, sound(1, rate=rate, channels=2), rate=rate, subtype=subtype)
    for joined in (one + one, one + other):
        assert "several streams in sequence" in refusal(written(tmp_path, "a.sound", joined))
    assert read_audio(written(tmp_path, "a.sound", one))[0].shape == (2, round(1.5 * rate))


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 44_100), ("OPUS", 48_000)])
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_an_ogg_that_ends_within_a_page_is_refused(tmp_path: Path, subtype: str, rate: int, keep: float) -> None:
    content = encoded("OGG", sound(6, rate=rate, channels=2), rate=rate, subtype=subtype)
    path = written(tmp_path, "a.ogg", content[: round(keep * len(content))])
    assert "ends before its last page does" in refusal(path)
    for behind in (b"TAG" + bytes(125), b"OggS\0" + bytes(30)):
        assert read_audio(written(tmp_path, "b.ogg", content + behind))[0].shape == (2, 6 * rate)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF])
def test_a_wav_of_a_program_that_did_not_know_its_end_is_taken(tmp_path: Path, size: int) -> None:
    assert read_audio(written(tmp_path, "a.wav", wav_of(size)))[0].shape == (2, 66_150)


def test_a_wav_whose_length_has_wrapped_is_refused(tmp_path: Path) -> None:
    size = 2**32 + 4 * 44_100
    path = written(tmp_path, "a.wav", wav_of(size % 2**32))
    with path.open("r+b") as file:
        file.truncate(44 + size)  # sparse
    with pytest.raises(AudioError, match="holds more than its header says"):
        audio_header(path)


@pytest.mark.parametrize(
    "behind",
    [
        LIST,
        LIST + b"\0",
        LIST + b"\0id3 " + struct.pack("<I", 5) + b"abcde\0",
        LIST + b"bext" + struct.pack("<I", 4) + b"abcd",
        b"LIST" + struct.pack("<I", 900) + b"INFO",
        b"TAG" + bytes(125),
        bytes(2048),
        b"cue " + struct.pack("<I", 4) + bytes(4),
    ],
)
def test_chunks_and_tags_behind_the_sound_of_a_wav_are_no_sound(tmp_path: Path, behind: bytes) -> None:
    assert read_audio(written(tmp_path, "a.wav", encoded("WAV") + behind))[0].shape == (2, 66_150)


def test_a_wav_of_an_odd_size_is_taken_with_and_without_its_last_byte(tmp_path: Path) -> None:
    content = encoded("WAV", sound(1, rate=44_100, channels=1)[:1001], subtype="PCM_U8")
    content = content[: content.index(b"data") + 8 + 1001]
    for behind in (b"", b"\0", LIST, b"\0" + LIST + b"\0"):
        assert read_audio(written(tmp_path, "a.wav", content + behind))[0].shape == (1, 1001)


@pytest.mark.parametrize("rate", [1, 100, 3_999, 800_000, 10_000_000, 2**31 - 1])
def test_a_rate_that_is_not_that_of_audio_is_refused(tmp_path: Path, rate: int) -> None:
    content = bytearray(encoded("WAV", subtype="PCM_16"))
    at = content.index(b"fmt ") + 12
    content[at : at + 4] = struct.pack("<I", rate)
    assert "not one of audio" in refusal(written(tmp_path, "a.wav", bytes(content)))


@pytest.mark.parametrize("rate", [4_000, 8_000, 192_000, 768_000])
def test_rates_of_telephones_and_of_laboratories_are_read(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path, "a.wav", encoded("WAV", sound(0.1, rate=rate, channels=1), rate=rate))
    assert audio_header(path) == (rate, round(0.1 * rate))


def test_what_is_no_regular_file_is_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "folder.wav").mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket.wav"))
        for path, found in (
            (tmp_path / "fifo.wav", "a FIFO"),
            (tmp_path / "socket.wav", "a socket"),
            (tmp_path / "folder.wav", "a folder"),
            (Path("/dev/zero"), "a device"),
        ):
            assert sound_seconds(path) == 0
            with pytest.raises(AudioError, match=found):
                list(read_blocks(path))
            with pytest.raises(AudioError, match=found):
                survey(path)
            with pytest.raises(AudioError, match=found), opened(path, folder=tmp_path):
                pass
