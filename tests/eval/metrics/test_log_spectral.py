"""Log-spectral distance: known answers, its bands, and what is not scored."""

from __future__ import annotations

import numpy as np
import pytest

from reencoder_eval.metrics.log_spectral import LSD_METRICS, log_spectral_distance
from reencoder_eval.metrics.spectral import filter_band
from reencoder_pipeline.errors import EvaluationError

RATE = 44_100


def noise(seed: int, *, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(RATE)).astype(np.float32)


def test_a_gain_costs_a_tenth_of_its_decibels() -> None:
    scores = log_spectral_distance(2 * noise(0), noise(0), sample_rate=RATE)
    assert scores == pytest.approx(dict.fromkeys(LSD_METRICS, np.log10(4)), abs=1e-4)
    assert log_spectral_distance(noise(0), noise(0), sample_rate=RATE) == dict.fromkeys(LSD_METRICS, 0.0)


def test_two_noises_differ_by_the_spread_of_log_power() -> None:
    """Power of a noise's bin is exponential: ln of it has variance pi^2 / 6, and the two are independent."""
    scores = log_spectral_distance(noise(0), noise(1), sample_rate=RATE)
    expected = np.sqrt(2 * np.pi**2 / 6) / np.log(10)
    assert scores == pytest.approx(dict.fromkeys(LSD_METRICS, expected), rel=0.03)


def test_power_is_clamped() -> None:
    reference = noise(0, level=1.0)  # Hann, 2048 points: noise of level 1 has a power of 768 in every bin
    mean_log = np.log10(768) - np.euler_gamma / np.log(10)
    expected = np.hypot(mean_log + 8, np.sqrt(np.pi**2 / 6) / np.log(10))
    scores = log_spectral_distance(np.zeros_like(reference), reference, sample_rate=RATE)
    assert scores["lsd_full"] == pytest.approx(expected, rel=0.005)


def test_a_missing_high_band_shows_in_the_high_band() -> None:
    reference = noise(0)
    scores = log_spectral_distance(filter_band(reference, "low", sample_rate=RATE), reference, sample_rate=RATE)
    full, low, high = (scores[metric] or np.nan for metric in LSD_METRICS)
    assert low < 0.2
    assert high > 7
    assert low < full < high


@pytest.mark.parametrize(("rate", "edge_bin"), [(44_100, 512), (48_000, 471)])
def test_bands_part_at_11025_hz(rate: int, edge_bin: int) -> None:
    """A gain above `edge_bin`, of a sample rate, is seen in the high band alone but for the filter's ramp."""
    reference = noise(0)
    for bins, band in ((slice(None, edge_bin - 8), "lsd_low"), (slice(edge_bin + 8, None), "lsd_high")):
        spectrum = np.fft.rfft(reference)
        scaled = slice(*(None if edge is None else edge * len(spectrum) // 1024 for edge in (bins.start, bins.stop)))
        spectrum[scaled] *= 2
        estimate = np.fft.irfft(spectrum, len(reference)).astype(np.float32)
        scores = log_spectral_distance(estimate, reference, sample_rate=rate)
        other = "lsd_high" if band == "lsd_low" else "lsd_low"
        assert scores[band] == pytest.approx(np.log10(4), rel=0.03)
        assert scores[other] == pytest.approx(0.0, abs=0.03)


def test_what_is_silent_is_not_scored() -> None:
    assert log_spectral_distance(noise(1), 0.005 * noise(0), sample_rate=RATE) == dict.fromkeys(LSD_METRICS)
    tone = np.hanning(RATE) * np.sin(2 * np.pi * 440 / RATE * np.arange(RATE))
    scores = log_spectral_distance(noise(1), tone.astype(np.float32), sample_rate=RATE)
    assert [metric for metric, value in scores.items() if value is None] == ["lsd_high"]


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="the same shape"):
        log_spectral_distance(noise(0)[1:], noise(0), sample_rate=RATE)
    with pytest.raises(EvaluationError, match="at least 2048"):
        log_spectral_distance(noise(0)[:2000], noise(0)[:2000], sample_rate=RATE)
