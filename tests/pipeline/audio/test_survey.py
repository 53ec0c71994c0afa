"""The survey finds where music ends and how much stereo there is, on signals whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from reencoder_pipeline.audio.bandwidth import LongTermSpectrum
from reencoder_pipeline.audio.survey import Survey, suited_tasks, survey
from reencoder_pipeline.errors import AudioError
from surveyed import survey_audio

RATE = 44_100


def noise(*, seconds: float, highest: float, rate: int = RATE, slope: float = 0.0, seed: int = 0) -> np.ndarray:
    """(1, samples) of noise that ends like a brick wall at `highest` Hz, falling by `slope` on the way."""
    samples = int(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    spectrum *= 10 ** (-slope * frequency / 1000 / 20) * (frequency <= highest)
    audio = np.fft.irfft(spectrum, samples)
    return (0.1 * audio / audio.std()).astype(np.float32)[None]


def effective_bandwidth(audio: np.ndarray, *, sample_rate: int) -> float:
    return survey_audio(audio, sample_rate=sample_rate).bandwidth_hz


def side_mid_level(audio: np.ndarray) -> float:
    return survey_audio(audio, sample_rate=RATE).side_mid_db


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
    whole, pieces = LongTermSpectrum(), LongTermSpectrum()
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


def tone(frequency: float, level_db: float, *, seconds: float = 4) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    return (10 ** (level_db / 20) * np.sin(2 * np.pi * frequency * times)).astype(np.float32)[None]


def swept(first: float, last: float, level_db: float, *, seconds: float = 4) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * (first * times + (last - first) / (2 * seconds) * times**2)
    return (10 ** (level_db / 20) * np.sin(phase)).astype(np.float32)[None]


@pytest.mark.parametrize("floor", [None, -90, -72])
@pytest.mark.parametrize("highest", [7_000, 12_000])
@pytest.mark.parametrize(
    "whistles",
    [
        [tone(15_734, -40)],
        [tone(15_625, -20)],
        [tone(19_000, -45)],
        [tone(15_734, -50), tone(16_000, -50), tone(19_000, -40), tone(19_500, -55)],
        [swept(16_000, 19_000, -40)],
    ],
    ids=["screen", "loud", "pilot", "several", "swept"],
)
def test_a_whistle_above_the_music_does_not_extend_its_band(
    highest: float, whistles: list[np.ndarray], floor: float | None
) -> None:
    quiet = noise(seconds=4, highest=highest, slope=3.0)
    quiet = quiet if floor is None else dither(quiet, level_db=floor)
    plain = effective_bandwidth(quiet, sample_rate=RATE)
    assert plain == pytest.approx(highest, abs=400)
    found = survey_audio(quiet + sum(whistles), sample_rate=RATE)
    assert found.bandwidth_hz == pytest.approx(plain, abs=400)
    assert "bwe" not in suited_tasks(found)


@pytest.mark.parametrize("level_db", [-40, -60, -75])
def test_hiss_above_a_gap_does_not_extend_the_band(level_db: float) -> None:
    hiss = noise(seconds=4, highest=22_050, seed=3) - noise(seconds=4, highest=15_000, seed=3)
    audio = noise(seconds=4, highest=7_000, slope=3.0) + np.float32(10 ** (level_db / 20)) * hiss
    assert effective_bandwidth(audio, sample_rate=RATE) < 7_500


@pytest.mark.parametrize("pitch", [110, 440, 1_000])
def test_the_partials_of_one_tone_are_a_band(pitch: float) -> None:
    partials = sum(tone(pitch * k, -20 - 20 * np.log10(k)) for k in range(1, int(19_500 / pitch) + 1))
    assert effective_bandwidth(np.asarray(partials), sample_rate=RATE) > 18_000


def late(audio: np.ndarray, samples: float) -> np.ndarray:
    frequency = np.fft.rfftfreq(audio.shape[-1])
    return np.fft.irfft(np.fft.rfft(audio) * np.exp(-2j * np.pi * frequency * samples), audio.shape[-1])


HISS = np.random.default_rng(5).standard_normal(2 * RATE)
ONE_SIGNAL = {
    "right is empty": lambda one: (one, 0 * one),
    "left is empty": lambda one: (0 * one, one),
    "right is hiss": lambda one: (one, 1e-4 * HISS),
    "left is hiss and DC": lambda one: (1e-4 * HISS + 0.05, one),
    "a little DC": lambda one: (one, one + 0.01),
    "much DC": lambda one: (one - 0.3, one),
    "DC alone": lambda one: (one, 0 * one + 0.1),
    "a sample late": lambda one: (one, late(one, 1)),
    "half a sample early": lambda one: (one, late(one, -0.5)),
    "44 samples late": lambda one: (one, late(one, 44)),
    "inverted": lambda one: (one, -one),
    "panned": lambda one: (0.3 * one, one),
    "inverted, quieter, late, with hiss": lambda one: (one, -0.4 * late(one, 7) + 1e-4 * HISS),
    "16 bits": lambda one: (np.round(one * 32_767) / 32_768, np.round(0.5 * one * 32_767) / 32_768),
}


@pytest.mark.parametrize("name", ONE_SIGNAL)
@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_one_signal_in_two_channels_is_no_stereo(name: str, slope: float) -> None:
    left, right = ONE_SIGNAL[name](noise(seconds=2, highest=20_000, slope=slope)[0].astype(np.float64))
    found = survey_audio(np.stack([left, right]).astype(np.float32), sample_rate=RATE)
    assert found.is_one_signal
    assert "m2s" not in suited_tasks(found)
    assert found.louder == int("left" in name or name == "panned")


@pytest.mark.parametrize("share_db", [0, -10, -25, -29])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_an_independent_side_is_stereo_however_narrow(share_db: float, offset: float) -> None:
    mid, side = noise(seconds=2, highest=20_000, seed=1)[0], noise(seconds=2, highest=20_000, seed=2)[0]
    side = side * np.float32(10 ** (share_db / 20))
    audio = np.stack([mid + side, mid - side + np.float32(offset)])
    found = survey_audio(audio, sample_rate=RATE)
    assert found.width_db == pytest.approx(share_db, abs=0.5)
    assert not found.is_one_signal
    assert suited_tasks(found) == ("bwe", "m2s")


def test_the_width_does_not_depend_on_how_the_audio_arrives() -> None:
    left, right = noise(seconds=3, highest=18_000, seed=1), noise(seconds=3, highest=18_000, seed=2)
    audio = np.concatenate([left, 0.5 * left + 0.2 * right]).astype(np.float32)
    pieces = LongTermSpectrum()
    for piece in np.array_split(audio, 7, axis=1):
        pieces.add(piece)
    assert pieces.width_db(sample_rate=RATE) == pytest.approx(survey_audio(audio, sample_rate=RATE).width_db, abs=1e-3)


def test_the_peak_is_the_largest_sample_of_any_channel() -> None:
    audio = np.zeros((2, 600_000), np.float32)
    audio[1, 599_999] = -2.0
    assert survey_audio(audio, sample_rate=RATE).peak_db == pytest.approx(20 * np.log10(2), abs=1e-6)
