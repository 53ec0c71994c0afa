"""The survey finds where music ends and how much stereo there is, on signals whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.survey import (
    Survey,
    _LongTermSpectrum,
    effective_bandwidth,
    side_mid_level,
    suited_tasks,
    survey,
    survey_audio,
)

RATE = 44_100


def noise(*, seconds: float, highest: float, rate: int = RATE, slope: float = 0.0, seed: int = 0) -> np.ndarray:
    """(1, samples) of noise that ends like a brick wall at `highest` Hz, falling by `slope` on the way."""
    samples = int(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    spectrum *= 10 ** (-slope * frequency / 1000 / 20) * (frequency <= highest)
    audio = np.fft.irfft(spectrum, samples)
    return (0.1 * audio / audio.std()).astype(np.float32)[None]


def dither(audio: np.ndarray, *, level_db: float) -> np.ndarray:
    shape = audio.shape
    return audio + (10 ** (level_db / 20) * np.random.default_rng(9).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("highest", [5_000, 10_500, 15_400, 16_000, 19_000])
def test_bandwidth_is_where_the_low_pass_is(highest: float) -> None:
    audio = noise(seconds=4, highest=highest)
    assert effective_bandwidth(audio, sample_rate=RATE) == pytest.approx(highest, abs=150)


@pytest.mark.parametrize("highest", [11_000, 16_000])
def test_noise_above_a_codec_shelf_is_not_music(highest: float) -> None:
    # Falls as music does, 60 dB by 15 kHz, and lies on noise loud enough to pass the level test all the way up.
    audio = dither(noise(seconds=4, highest=highest, slope=3.0), level_db=-72)
    assert effective_bandwidth(audio, sample_rate=RATE) == pytest.approx(highest, abs=400)


def test_a_natural_slope_is_not_a_shelf() -> None:
    audio = noise(seconds=4, highest=22_050, slope=2.5)
    assert effective_bandwidth(audio, sample_rate=RATE) > 21_500


@pytest.mark.parametrize("rate", [22_050, 48_000, 96_000])
def test_full_band_noise_reaches_the_nyquist_frequency_at_any_rate(rate: int) -> None:
    audio = noise(seconds=2, highest=rate / 2, rate=rate)
    assert effective_bandwidth(audio, sample_rate=rate) > 0.97 * rate / 2


def test_bandwidth_does_not_depend_on_gain_or_polarity_of_channels() -> None:
    mono = noise(seconds=3, highest=17_000, slope=2.0)
    expected = effective_bandwidth(mono, sample_rate=RATE)
    assert effective_bandwidth(np.float32(0.1) * mono, sample_rate=RATE) == pytest.approx(expected, abs=30)
    opposite = np.concatenate([mono, -mono])  # its mono sum is silence
    assert effective_bandwidth(opposite, sample_rate=RATE) == pytest.approx(expected, abs=1)


def test_one_bright_passage_counts_for_the_whole_recording() -> None:
    dull, bright = noise(seconds=18, highest=6_000), noise(seconds=2, highest=18_000, seed=1)
    assert effective_bandwidth(np.concatenate([dull, bright], axis=1), sample_rate=RATE) > 17_500


@pytest.mark.parametrize("samples", [0, 1, 1000, 4096, 50_000])
def test_silence_has_no_bandwidth(samples: int) -> None:
    assert effective_bandwidth(np.zeros((2, samples), np.float32), sample_rate=RATE) == 0.0


def test_short_audio_is_measured_too() -> None:
    assert effective_bandwidth(noise(seconds=0.02, highest=20_000), sample_rate=RATE) > 15_000


@pytest.mark.parametrize("sizes", [(100_000,), (1, 4095, 5000, 90_904), (2048,) * 48 + (1696,), (99_999, 1)])
def test_the_spectrum_does_not_depend_on_how_the_audio_arrives(sizes: tuple[int, ...]) -> None:
    audio = noise(seconds=100_000 / RATE, highest=20_000) * np.linspace(0, 1, 100_000, dtype=np.float32)
    whole, pieces = _LongTermSpectrum(), _LongTermSpectrum()
    whole.add(audio)
    for piece in np.split(audio, np.cumsum(sizes)[:-1], axis=1):
        pieces.add(piece)
    np.testing.assert_allclose(pieces.mean(), whole.mean(), rtol=1e-4)


def test_side_mid_level_of_a_known_mixture() -> None:
    mid, side = noise(seconds=1, highest=20_000, seed=1)[0], noise(seconds=1, highest=20_000, seed=2)[0]
    audio = np.stack([mid + 0.1 * side, mid - 0.1 * side])
    assert side_mid_level(audio) == pytest.approx(-20.0, abs=0.1)


def test_side_mid_level_at_its_ends() -> None:
    mono = noise(seconds=0.5, highest=10_000)
    assert side_mid_level(mono) == -120.0
    assert side_mid_level(np.concatenate([mono, mono])) == -120.0
    assert side_mid_level(np.zeros((2, 100), np.float32)) == -120.0
    assert side_mid_level(np.concatenate([mono, -mono])) == 120.0
    assert side_mid_level(np.concatenate([mono, np.float32(-0.9) * mono])) == pytest.approx(25.6, abs=0.1)
    assert side_mid_level(np.concatenate([mono, 0 * mono])) == pytest.approx(0.0, abs=1e-6)


def test_a_file_is_surveyed_as_its_samples_are(tmp_path: Path) -> None:
    # Longer than a block, and no multiple of it: frames must reach across blocks.
    left, right = noise(seconds=31.7, highest=16_500, seed=1), noise(seconds=31.7, highest=16_500, seed=2)
    audio = np.concatenate([left, 0.5 * left + 0.2 * right]).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio.T, RATE, subtype="FLOAT")
    found = survey(tmp_path / "a.wav")
    assert (found.num_samples, found.num_channels, found.sample_rate) == (audio.shape[1], 2, RATE)
    assert found.seconds == pytest.approx(31.7, abs=1e-3)
    assert found.bandwidth_hz == pytest.approx(effective_bandwidth(audio, sample_rate=RATE), abs=1e-6)
    assert found.side_mid_db == pytest.approx(side_mid_level(audio), abs=1e-6)
    assert found.level_db == pytest.approx(10 * np.log10(np.square(audio).mean()), abs=1e-3)
    assert suited_tasks(found) == ("bwe", "m2s")
    in_memory = survey_audio(audio, sample_rate=RATE)
    assert in_memory.bandwidth_hz == pytest.approx(found.bandwidth_hz, abs=1e-6)
    assert in_memory.side_mid_db == pytest.approx(found.side_mid_db, abs=1e-6)
    assert (in_memory.num_samples, in_memory.num_channels) == (found.num_samples, found.num_channels)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_level_is_that_of_all_channels(channels: int) -> None:
    audio = np.random.default_rng(0).standard_normal((channels, 5_000)).astype(np.float32)
    level = survey_audio(audio, sample_rate=RATE).level_db
    assert level == pytest.approx(10 * np.log10(np.square(audio, dtype=float).mean()), abs=1e-6)


def test_an_mp3_ends_at_its_low_pass(tmp_path: Path) -> None:
    audio = noise(seconds=5, highest=22_050, slope=2.0)
    soundfile.write(tmp_path / "a.mp3", audio.T, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.8)
    found = survey(tmp_path / "a.mp3")
    assert 9_000 < found.bandwidth_hz < 20_500
    assert "m2s" not in suited_tasks(found)


@pytest.mark.parametrize("content", [b"", b"no audio at all\n" * 20])
def test_a_file_that_is_no_audio_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.ogg"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"bad\.ogg"):
        survey(path)
    with pytest.raises(AudioError, match="no such audio file"):
        survey(tmp_path / "absent.ogg")


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.mp3"
    soundfile.write(path, noise(seconds=3, highest=15_000).T, RATE, format="MP3")
    whole = path.read_bytes()
    survey(path)
    path.write_bytes(whole[: len(whole) // 5])
    with pytest.raises(AudioError, match=r"short\.mp3"):
        survey(path)


def offer(**changes: object) -> Survey:
    good = {"sample_rate": RATE, "num_samples": RATE, "num_channels": 2, "bandwidth_hz": 20_000.0}
    return Survey(**{**good, "side_mid_db": -9.0, "level_db": -20.0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("bwe", "m2s")),
        ({"sample_rate": 48_000}, ("bwe", "m2s")),
        ({"sample_rate": 32_000}, ("m2s",)),
        ({"bandwidth_hz": 15_499.0}, ("m2s",)),
        ({"bandwidth_hz": 15_500.0}, ("bwe", "m2s")),
        ({"num_channels": 1, "side_mid_db": -120.0}, ("bwe",)),
        ({"side_mid_db": -30.1}, ("bwe",)),
        ({"side_mid_db": 3.1}, ("bwe",)),
        ({"num_channels": 6}, ("bwe",)),
        ({"num_channels": 1, "side_mid_db": -120.0, "bandwidth_hz": 8000.0}, ()),
    ],
)
def test_tasks_follow_the_thresholds(changes: dict[str, object], expected: tuple[str, ...]) -> None:
    assert suited_tasks(offer(**changes)) == expected
