"""Waveforms: what is read, what is refused and in which words, and how much the resamplers let through."""

from __future__ import annotations

import io
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from reencoder_pipeline.audio import read as audio_module
from reencoder_pipeline.audio.block_resampling import BlockLowBand, BlockResampler
from reencoder_pipeline.audio.read import audio_header, read_audio, read_blocks
from reencoder_pipeline.audio.resampling import downmix, low_band, resample
from reencoder_pipeline.errors import AudioError, ConfigError

RATE = 44_100
NOISE = (0.1 * np.random.default_rng(0).standard_normal((2, RATE // 2))).astype(np.float32)


def encoded(suffix: str, audio: np.ndarray = NOISE, rate: int = RATE, *, subtype: str | None = None) -> bytes:
    """(channels, samples) as a file of that kind, in memory."""
    buffer = io.BytesIO()
    formats = {"aif": "AIFF", "opus": "OGG"}
    subtype = "OPUS" if suffix == "opus" else subtype
    soundfile.write(buffer, audio.T, rate, format=formats.get(suffix, suffix.upper()), subtype=subtype)
    return buffer.getvalue()


def written(folder: Path, name: str, content: bytes | bytearray) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def refusal(path: Path, **promises: int) -> str:
    """What is said of a file, read in one block or in many; its name, what was found and the remedy always are."""
    said = []
    for size in (audio_module.BLOCK_SAMPLES, 1_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audio_module, "BLOCK_SAMPLES", size)
            with pytest.raises(AudioError) as caught:
                read_audio(path, **promises)
        said.append(str(caught.value))
    text = said[0]
    assert text == said[1]
    assert text.startswith(f"{path}: ")
    assert "\n  found: " in text
    assert "\n  try: " in text
    return text


# What is read


@pytest.mark.parametrize("suffix", ["wav", "flac", "aif", "au", "w64", "rf64", "caf"])
def test_lossless_formats_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, f"a.{suffix}", encoded(suffix))
    audio, rate = read_audio(path)
    assert (audio.shape, audio.dtype, rate) == (NOISE.shape, np.float32, RATE)
    assert audio.flags.c_contiguous
    assert np.abs(audio - NOISE).max() < 1.01 / 2**15  # one step of 16 bits
    assert audio_header(path) == (RATE, NOISE.shape[1])


@pytest.mark.parametrize(("suffix", "rate"), [("ogg", 44_100), ("mp3", 44_100), ("opus", 48_000)])
def test_lossy_formats_keep_length_and_place(tmp_path: Path, suffix: str, rate: int) -> None:
    """A decoder's delay would shift every frame of the cache against the audio."""
    times = np.arange(rate) / rate
    chirp = (0.5 * np.sin(2 * np.pi * (200 * times + 1500 * times**2)))[None].astype(np.float32)
    audio, read_rate = read_audio(written(tmp_path, f"a.{suffix}", encoded(suffix, chirp, rate)))
    assert (audio.shape, read_rate) == (chirp.shape, rate)
    lags = np.fft.irfft(np.fft.rfft(audio[0], 2 * rate) * np.fft.rfft(chirp[0], 2 * rate).conj())
    assert abs((int(np.argmax(lags)) + rate) % (2 * rate) - rate) <= 1


@pytest.mark.parametrize("rate", [8_000, 11_025, 48_000, 192_000])
def test_any_rate_is_brought_to_the_one_asked_for(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path, "a.wav", encoded("wav", NOISE[:, : rate // 10], rate))
    count = min(rate // 10, NOISE.shape[1])
    assert read_audio(path)[1] == rate
    audio, new_rate = read_audio(path, sample_rate=RATE)
    assert (audio.shape, new_rate) == ((2, -(-count * RATE // rate)), RATE)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_any_coding_of_samples_is_read(tmp_path: Path, subtype: str) -> None:
    path = written(tmp_path, "a.wav", encoded("wav", NOISE, subtype=subtype))
    audio, _ = read_audio(path)
    assert audio.shape[0] == 2
    assert abs(audio.shape[1] - NOISE.shape[1]) < 1100  # ADPCM comes in blocks
    assert np.corrcoef(audio[0, : NOISE.shape[1]], NOISE[0, : audio.shape[1]])[0, 1] > 0.95


def test_one_sample_is_audio(tmp_path: Path) -> None:
    path = written(tmp_path, "a.wav", encoded("wav", NOISE[:, :1]))
    assert read_audio(path)[0].shape == (2, 1)
    assert read_audio(path, sample_rate=48_000)[0].shape == (2, 2)


@pytest.mark.parametrize(
    "name", [b"a b.wav", "Ä ö 音楽 [1].wav".encode(), b"caf\xe9.wav", b"new\nline.wav", b"a: b.wav", b"-x%s.wav"]
)
def test_odd_names_are_read(tmp_path: Path, name: bytes) -> None:
    path = written(tmp_path, os.fsdecode(name), encoded("wav"))
    assert read_audio(path)[0].shape == NOISE.shape
    assert audio_header(path) == (RATE, NOISE.shape[1])


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_from_a_pipe_is_read(tmp_path: Path, size: int) -> None:
    """Its header was written before its end was known."""
    content = bytearray(encoded("wav"))
    content[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    content[40:44] = struct.pack("<I", size)
    assert read_audio(written(tmp_path, "a.wav", content))[0].shape == NOISE.shape


def test_what_follows_the_samples_does_no_harm(tmp_path: Path) -> None:
    assert read_audio(written(tmp_path, "a.wav", encoded("wav") + b"tail" * 99))[0].shape == NOISE.shape


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus", "aif"])
@pytest.mark.parametrize("size", [1_000, NOISE.shape[1] // 3, NOISE.shape[1]])
def test_blocks_are_the_file_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, size: int
) -> None:
    rate = 48_000 if suffix == "opus" else RATE
    path = written(tmp_path, f"a.{suffix}", encoded(suffix, rate=rate))
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", size)
    blocks = list(read_blocks(path))
    assert {rate for _, rate in blocks} == {rate}
    assert max(block.shape[1] for block, _ in blocks) == size
    assert len(blocks) == NOISE.shape[1] // size + 1
    whole, _ = soundfile.read(path, dtype="float32")
    assert np.array_equal(np.concatenate([block for block, _ in blocks], axis=1), whole.T)


# What is refused


def test_an_empty_file(tmp_path: Path) -> None:
    assert "Format not recognised" in refusal(written(tmp_path, "a.wav", b""))


def test_text_named_wav(tmp_path: Path) -> None:
    text = refusal(written(tmp_path, "a: b.wav", b"This is not audio.\n" * 50))
    assert "found: Format not recognised" in text
    assert "ffmpeg" in text


def test_no_samples(tmp_path: Path) -> None:
    assert "holds no samples" in refusal(written(tmp_path, "a.wav", encoded("wav", NOISE[:, :0])))


@pytest.mark.parametrize("keep", [0.03, 0.5, 0.97])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aif", "au", "w64", "rf64"])
def test_a_truncated_file(tmp_path: Path, suffix: str, keep: float) -> None:
    """libsndfile itself returns the rest of a WAV or MP3 without an error."""
    content = encoded(suffix)
    path = written(tmp_path, f"a.{suffix}", content[: int(len(content) * keep)])
    text = refusal(path)
    if suffix in ("wav", "aif", "au", "w64", "rf64"):
        assert "ends before its header says" in text
        with pytest.raises(AudioError, match="ends before"):  # so that a plan already knows it
            audio_header(path)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_a_truncated_stream_without_a_length_needs_its_manifest(tmp_path: Path, suffix: str) -> None:
    audio = np.repeat(NOISE, 4, axis=1)
    content = encoded(suffix, audio, 48_000)
    page = content.rindex(b"OggS", 0, len(content) * 3 // 4)  # a cut within one is seen without a manifest
    path = written(tmp_path, f"a.{suffix}", content[:page])
    assert "another length than its manifest says" in refusal(path, num_samples=audio.shape[1])


def test_a_length_that_the_manifest_does_not_promise(tmp_path: Path) -> None:
    path = written(tmp_path, "a.wav", encoded("wav"))
    assert read_audio(path, num_samples=NOISE.shape[1] + 400)[0].shape == NOISE.shape  # within 10 ms
    assert f"{NOISE.shape[1]} samples instead of 30000" in refusal(path, num_samples=30_000)


def test_a_flac_that_does_not_know_its_length(tmp_path: Path) -> None:
    """As written to a pipe; libsndfile calls it 2^63 samples long."""
    content = bytearray(encoded("flac"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert "does not state its length" in refusal(written(tmp_path, "a.flac", content))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    audio = NOISE.copy()
    audio[1, 100:103] = value
    assert "found: 3 of them" in refusal(written(tmp_path, "a.wav", encoded("wav", audio, subtype="FLOAT")))


def test_more_than_two_channels(tmp_path: Path) -> None:
    assert "6 channels" in refusal(written(tmp_path, "a.wav", encoded("wav", np.repeat(NOISE, 3, axis=0))))


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "gone.wav")
    assert "found: nothing" in refusal(tmp_path / "gone.wav")
    assert "found: a folder" in refusal(tmp_path / "folder.wav")
    assert "found: a link to nothing" in refusal(tmp_path / "link.wav")
    assert "too long" in refusal(tmp_path / ("x" * 300 + ".wav"))
    assert "no such audio file" in refusal(tmp_path / "a.wav" / "b.wav")


def test_what_this_user_may_not_read() -> None:
    with an_ordinary_user(), tempfile.TemporaryDirectory() as name:  # pytest's own folders may be root's alone
        path = written(Path(name), "a.wav", encoded("wav"))
        path.chmod(0o000)
        assert "check its permissions" in refusal(path)
        with pytest.raises(AudioError, match="may not read this file"):
            audio_header(path)


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Root may read anything, so root becomes nobody for a while."""
    if os.getuid() != 0:
        yield
        return
    nobody = 65_534
    mask = os.umask(0)
    os.setresuid(nobody, nobody, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.umask(mask)


# Resampling

RESAMPLERS = ["soxr_vhq", "torchaudio_default", "torchaudio_kaiser_best"]


@settings(max_examples=40)
@given(
    samples=st.integers(1, 3000),
    rates=st.tuples(*[st.sampled_from([8_000, 22_050, 44_100, 48_000, 96_000])] * 2),
    channels=st.integers(1, 2),
)
def test_a_resampled_length_is_rounded_up(samples: int, rates: tuple[int, int], channels: int) -> None:
    audio = np.ones((channels, samples), dtype=np.float32)
    output = resample(audio, *rates)
    assert output.shape == (channels, -(-samples * rates[1] // rates[0]))
    assert output.dtype == np.float32
    assert output.flags.c_contiguous
    assert np.isfinite(output).all()


@settings(max_examples=20)
@given(samples=st.integers(1, 3000), low_rate=st.sampled_from([8_000, 16_000, 22_050, 32_000]))
def test_a_low_band_keeps_the_shape(samples: int, low_rate: int) -> None:
    audio = np.ones((2, samples), dtype=np.float32)
    assert low_band(audio, sample_rate=RATE, low_rate=low_rate).shape == audio.shape


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_every_resampler_keeps_time_and_level(resampler: str) -> None:
    times = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * times)[None].astype(np.float32)
    output = resample(tone, RATE, 48_000, resampler=resampler)
    expected = np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000)
    inside = slice(1000, -1000)
    assert np.abs(output[0, inside] - expected[inside]).max() < 2e-3


RATES = st.tuples(*[st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000])] * 2)


def in_blocks(stage: BlockResampler | BlockLowBand, audio: np.ndarray, cuts: list[int]) -> np.ndarray:
    pieces = np.split(audio, sorted(min(cut, audio.shape[1]) for cut in cuts), axis=1)
    return np.concatenate([*(stage.add(piece) for piece in pieces), stage.finish()], axis=1)


@settings(max_examples=40)
@given(
    samples=st.integers(0, 9_000),
    cuts=st.lists(st.integers(0, 9_000), max_size=6),
    rates=RATES,
    channels=st.integers(1, 2),
    resampler=st.sampled_from(RESAMPLERS),
)
def test_resampling_in_blocks_is_that_of_the_whole(
    samples: int, cuts: list[int], rates: tuple[int, int], channels: int, resampler: str
) -> None:
    audio = np.random.default_rng(samples).standard_normal((channels, samples)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reencoder_pipeline.audio.block_resampling.FIR_BLOCK", 1_000)
        output = in_blocks(BlockResampler(*rates, channels=channels, resampler=resampler), audio, cuts)
    whole = resample(audio, *rates, resampler=resampler) if samples else audio
    assert output.shape == whole.shape
    if resampler == "soxr_vhq":
        assert np.array_equal(output, whole)
    else:  # torch may add up in another order where a convolution is shorter
        np.testing.assert_allclose(output, whole, atol=2e-6)


@settings(max_examples=20)
@given(
    samples=st.integers(1, 9_000),
    cuts=st.lists(st.integers(0, 9_000), max_size=6),
    low_rate=st.sampled_from([8_000, 16_000, 22_050, 32_000]),
)
def test_a_low_band_in_blocks_is_that_of_the_whole(samples: int, cuts: list[int], low_rate: int) -> None:
    audio = np.random.default_rng(samples).standard_normal((1, samples)).astype(np.float32)
    stage = BlockLowBand(channels=1, sample_rate=RATE, low_rate=low_rate, resampler="soxr_vhq")
    assert np.array_equal(in_blocks(stage, audio, cuts), low_band(audio, sample_rate=RATE, low_rate=low_rate))


def test_what_a_block_knows_is_given_out_at_once() -> None:
    """Or memory would grow with the track."""
    for resampler in RESAMPLERS:
        stage = BlockLowBand(channels=1, sample_rate=RATE, low_rate=22_050, resampler=resampler)
        given = sum(stage.add(NOISE[:1]).shape[1] for _ in range(40))
        assert 40 * NOISE.shape[1] - given < 5 * RATE, resampler


def leakage_db(factor: float, resampler: str) -> float:
    """Level of what is left anywhere of a tone at `factor` times the new Nyquist, against the tone."""
    times = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 11_025 * factor * times)[None].astype(np.float32)
    rest = low_band(tone, sample_rate=RATE, resampler=resampler)[0, 2000:-2000]  # the edges of a tone are broad band
    return float(10 * np.log10(np.square(rest, dtype=float).mean() / 0.5 + 1e-30))


def test_nothing_above_the_new_nyquist_is_let_through() -> None:
    """A low band in which the high band is left, folded or not, gives away what a module is to invent."""
    assert leakage_db(1.05, "soxr_vhq") < -100
    assert leakage_db(1.01, "soxr_vhq") < -100
    assert -16 < leakage_db(1.05, "torchaudio_default") < -6
    assert leakage_db(1.05, "torchaudio_kaiser_best") < leakage_db(1.05, "torchaudio_default")


def test_a_low_band_of_noise_is_empty_above_and_whole_below() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 4 * RATE)).astype(np.float32)
    band = low_band(noise, sample_rate=RATE)
    spectra = [np.square(np.abs(np.fft.rfft(x[0, RATE:-RATE] * np.hanning(2 * RATE)))) for x in (noise, band)]
    hertz = np.fft.rfftfreq(2 * RATE, 1 / RATE)
    above, below = hertz > 11_025 * 1.05, hertz < 11_025 * 0.9
    assert 10 * np.log10(spectra[1][above].sum() / spectra[0][above].sum()) < -100
    assert 10 * np.log10(spectra[1][below].sum() / spectra[0][below].sum()) == pytest.approx(0, abs=0.01)


def test_an_unknown_resampler_is_named_with_the_known_ones() -> None:
    for make in (lambda: resample(NOISE, RATE, 48_000, resampler="linear"), lambda: stage("linear")):
        with pytest.raises(ConfigError, match=r"(?s)linear.*soxr_vhq, torchaudio_default"):
            make()


def stage(resampler: str) -> BlockResampler:
    return BlockResampler(RATE, 48_000, channels=2, resampler=resampler)


# Downmix


def test_a_downmix_is_the_mean_of_the_channels() -> None:
    assert np.array_equal(downmix(NOISE), (NOISE[:1] + NOISE[1:]) / 2)
    assert np.array_equal(downmix(NOISE[:1]), NOISE[:1])
    assert np.abs(downmix(np.stack([NOISE[0], -NOISE[0]]))).max() == 0
    assert downmix(NOISE).dtype == np.float32
