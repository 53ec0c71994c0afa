"""STFT-D, mel-D and SI-SDR: the definitions that reproduce the paper, and what they do at their edges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from auraloss.freq import MultiResolutionSTFTLoss, STFTLoss
from scipy.signal import freqz

from reencoder_eval.metrics.spectral import (
    EDGE_HZ,
    METRICS,
    band_filter,
    filter_band,
    level_dbfs,
    mel_distance,
    mel_filterbank,
    score,
    score_channels,
    si_sdr,
    stft_distance,
)
from reencoder_pipeline.errors import EvaluationError

RATE = 44_100


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the scoring processes: more threads do not help a second of audio, and hurt a lot on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tone(hertz: float, *, level: float = 0.5, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def noise(seed: int, *, level: float = 0.1, seconds: float = 1.0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_identical_signals_are_at_distance_zero() -> None:
    scores = score(noise(0), noise(0), sample_rate=RATE)
    assert {name: value for name, value in scores.items() if name != "si_sdr"} == dict.fromkeys(METRICS[:-1], 0.0)
    assert scores["si_sdr"] == pytest.approx(200.0)


def test_stft_d_is_auraloss_with_its_defaults() -> None:
    estimate, reference = noise(0), tone(440.0) + noise(1)
    theirs = MultiResolutionSTFTLoss()(*(torch.from_numpy(signal)[None, None] for signal in (estimate, reference)))
    assert stft_distance(estimate, reference) == pytest.approx(float(theirs), rel=1e-6)


def test_mel_d_is_auraloss_on_a_slaney_filterbank() -> None:
    estimate, reference = noise(0), tone(440.0) + noise(1)
    loss = STFTLoss(1024, 256, 1024)
    loss.scale, loss.fb = "mel", mel_filterbank(RATE)[None]
    theirs = loss(*(torch.from_numpy(signal)[None, None] for signal in (estimate, reference)))
    assert mel_distance(estimate, reference, sample_rate=RATE) == pytest.approx(float(theirs), rel=1e-6)


def test_mel_filters_are_slaney_triangles_of_area_one() -> None:
    filters = mel_filterbank(RATE).numpy()
    assert filters.shape == (128, 513)
    # The area of a triangle in hertz; the narrow ones below are sampled too coarsely by bins of 43 Hz to show it.
    np.testing.assert_allclose(filters[64:].sum(axis=1) * RATE / 1024, 1.0, rtol=0.02)
    # Slaney's scale: linear below 1 kHz at 200/3 Hz a mel, then 27 mels for a factor of 6.4.
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, 130)
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    np.testing.assert_allclose(filters.argmax(axis=1) * RATE / 1024, hertz[1:-1], atol=RATE / 1024 / 2 + 1)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_an_unsuited_sample_rate_is_an_error_and_not_a_nan() -> None:
    with pytest.raises(EvaluationError, match="mel bands hold no FFT bin"):
        mel_filterbank(192_000)


def test_known_answers() -> None:
    """Stored values: whatever changes them changes every published number."""
    reference = tone(440.0) + tone(13_000.0, level=0.05) + noise(1, level=0.01)
    scores = score(filter_band(reference, "low", sample_rate=RATE), reference, sample_rate=RATE)
    assert scores == pytest.approx(KNOWN, rel=1e-3)


KNOWN = {
    "stft_d_full": 3.5575,
    "stft_d_low": 0.01273,
    "stft_d_high": 4.5287,
    "mel_d_full": 1.2178,
    "mel_d_low": 0.0047681,
    "mel_d_high": 2.2677,
    "si_sdr": 19.845,
}


def test_the_order_of_estimate_and_reference_matters() -> None:
    quiet, loud = 0.5 * noise(0), noise(0)
    # Spectral convergence is relative to the reference; the logarithmic term is ln 2 either way.
    assert stft_distance(quiet, loud) == pytest.approx(0.5 + np.log(2), abs=0.01)
    assert stft_distance(loud, quiet) == pytest.approx(1.0 + np.log(2), abs=0.01)


@pytest.mark.parametrize(("band", "side"), [("low", 1), ("high", -1)])
def test_band_filters_are_steep_and_without_delay(band: str, side: int) -> None:
    taps = band_filter(band, sample_rate=RATE)
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-12)
    frequencies, response = freqz(taps, worN=1 << 15, fs=RATE)
    decibels = 20 * np.log10(np.abs(response) + 1e-12)
    semitone = 2 ** (1 / 12)
    beyond = side * (frequencies - EDGE_HZ * semitone**side) > 0
    inside = side * (frequencies - EDGE_HZ / semitone**side) < 0
    assert decibels[beyond].max() < -60
    assert np.abs(decibels[inside]).max() < 0.01


def test_bands_split_a_signal_without_shifting_it() -> None:
    low, high = tone(1_000.0), tone(15_000.0)
    middle = slice(2_000, -2_000)  # the ends of a tone are clicks, which lie in both bands
    for band, expected in (("low", low), ("high", high)):
        filtered = filter_band(low + high, band, sample_rate=RATE)
        assert filtered.shape == low.shape
        np.testing.assert_allclose(filtered[middle], expected[middle], atol=1e-4)


def test_a_missing_high_band_shows_in_the_high_band_alone() -> None:
    reference = noise(3)
    scores = score(filter_band(reference, "low", sample_rate=RATE), reference, sample_rate=RATE)
    assert scores["stft_d_low"] == pytest.approx(0.03, abs=0.01)
    assert scores["stft_d_high"] == pytest.approx(5.5, abs=0.5)


def test_a_silent_reference_is_not_scored() -> None:
    quiet = noise(0, level=0.0005)
    assert level_dbfs(quiet) == pytest.approx(-66, abs=0.1)
    assert score(noise(1), quiet, sample_rate=RATE) == dict.fromkeys(METRICS)
    assert score(noise(1), np.zeros(RATE, np.float32), sample_rate=RATE) == dict.fromkeys(METRICS)


def test_a_silent_band_of_the_reference_is_not_scored() -> None:
    fade = np.hanning(RATE).astype(np.float32)  # without it the ends of the tone are clicks with a high band
    scores = score(noise(1), fade * tone(440.0), sample_rate=RATE)
    assert [name for name, value in scores.items() if value is None] == ["stft_d_high", "mel_d_high"]


def test_a_silent_estimate_is_scored() -> None:
    scores = score(np.zeros(RATE, np.float32), noise(1), sample_rate=RATE)
    assert all(value is not None and np.isfinite(value) for value in scores.values())


def test_channels_are_scored_one_by_one_and_averaged() -> None:
    estimate, reference = np.stack([noise(0), noise(1)]), np.stack([noise(2), 0.1 * noise(3)])
    both = score_channels(estimate, reference, RATE)
    single = [score(x, y, sample_rate=RATE) for x, y in zip(estimate, reference, strict=True)]
    for metric in METRICS:
        assert both[metric] == pytest.approx(np.mean([scores[metric] or np.nan for scores in single]))
    # One spectral convergence over both channels would be another number: the loud channel would rule it.
    together = MultiResolutionSTFTLoss()(*(torch.from_numpy(pair)[None] for pair in (estimate, reference)))
    assert abs(float(together) - (both["stft_d_full"] or 0.0)) > 0.5
    silent = score_channels(estimate, np.stack([reference[0], 0 * reference[1]]), RATE)
    assert silent == dict.fromkeys(METRICS)


def test_si_sdr_ignores_level_and_offset_and_measures_noise() -> None:
    reference, disturbance = noise(0, level=0.2), noise(1, level=0.02)
    assert si_sdr(0.3 * reference + 0.1, reference) > 100
    assert si_sdr(reference + disturbance, reference) == pytest.approx(20.0, abs=0.1)


@pytest.mark.parametrize(
    ("estimate", "reference", "message"),
    [
        (noise(0)[:-1], noise(0), "the same shape"),
        (noise(0)[None], noise(0)[None], r"the same shape, \(samples,\)"),
        (noise(0)[:1000], noise(0)[:1000], "at least 2048 samples"),
        (np.full(RATE, np.nan, np.float32), noise(0), "not finite"),
    ],
    ids=["length", "channels", "short", "nan"],
)
def test_what_cannot_be_compared_is_an_error(estimate: np.ndarray, reference: np.ndarray, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        score(estimate, reference, sample_rate=RATE)
