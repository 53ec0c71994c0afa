"""Baselines without weights: what they add, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from reencoder_eval.baselines.baseline import SIGNAL_PROCESSING, load_baseline
from reencoder_eval.baselines.signal_processing import SIDE_DB, decorrelate, fold
from reencoder_eval.metrics.spectral import filter_band, level_dbfs
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.errors import ConfigError

RATE, SECONDS = 44_100, 2


def noise(*, slope: float, seed: int = 0) -> np.ndarray:
    """Noise whose level falls by `slope` dB per octave, (samples,)."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(SECONDS * RATE))
    frequencies = np.maximum(np.fft.rfftfreq(SECONDS * RATE, 1 / RATE), 20.0)
    shaped = np.fft.irfft(spectrum * (frequencies / 1000) ** (-slope / 6.0206))
    return (0.1 * shaped / shaped.std()).astype(np.float32)


def low(audio: np.ndarray) -> np.ndarray:
    return low_band(audio[None], sample_rate=RATE)[0]


@pytest.mark.parametrize("slope", [3.0, 6.0, 12.0])
def test_folding_continues_the_tilt_of_the_low_band(slope: float) -> None:
    reference = noise(slope=slope)
    estimate = fold(low(reference), sample_rate=RATE)
    levels = [level_dbfs(filter_band(signal, "high", sample_rate=RATE)) for signal in (estimate, reference)]
    assert levels[0] == pytest.approx(levels[1], abs=3.0)
    lows = [filter_band(signal, "low", sample_rate=RATE) for signal in (estimate, low(reference))]
    assert level_dbfs(lows[0] - lows[1]) < level_dbfs(lows[1]) - 40, "the low band stays as it is"


def test_folding_mirrors_a_tone_at_the_edge() -> None:
    tone = np.sin(2 * np.pi * 8_000 * np.arange(SECONDS * RATE) / RATE)
    audio = low((0.3 * tone).astype(np.float32) + 0.1 * noise(slope=3.0))
    spectrum = np.abs(np.fft.rfft(fold(audio, sample_rate=RATE)))
    frequencies = np.fft.rfftfreq(SECONDS * RATE, 1 / RATE)
    high = frequencies > 12_000
    assert frequencies[high][spectrum[high].argmax()] == pytest.approx(RATE / 2 - 8_000, abs=2)


@pytest.mark.parametrize("audio", [np.zeros(RATE, np.float32), np.ones(1, np.float32)], ids=["silence", "one sample"])
def test_folding_adds_nothing_to_nothing(audio: np.ndarray) -> None:
    assert np.array_equal(fold(audio, sample_rate=RATE), audio)


def test_decorrelation_keeps_the_mid_and_adds_a_side_of_its_level() -> None:
    mono = noise(slope=3.0)
    left, right = decorrelate(mono, sample_rate=RATE)
    np.testing.assert_allclose((left + right) / 2, mono, atol=1e-6)
    side = (left - right) / 2
    assert level_dbfs(side) - level_dbfs(mono) == pytest.approx(SIDE_DB, abs=0.3)
    assert abs(np.corrcoef(side, mono)[0, 1]) < 0.35


@pytest.mark.parametrize(("name", "task", "targets"), [("folding", "bwe", 1), ("decorrelation", "m2s", 2)])
def test_they_keep_the_promises_of_a_baseline(name: str, task: str, targets: int) -> None:
    baseline = load_baseline(name, task=task)
    assert baseline.run is not None
    audio = low(noise(slope=3.0))[None, : RATE // 2 + 1]
    estimate = baseline.run(audio, RATE)
    assert (estimate.shape, estimate.dtype) == ((targets, audio.shape[1]), np.float32)
    assert np.isfinite(estimate).all()


def test_a_name_nobody_knows_is_an_error_that_helps() -> None:
    with pytest.raises(ConfigError, match="did you mean folding"):
        load_baseline("foldin", task="bwe")
    with pytest.raises(ConfigError, match="folding is for bwe, not m2s"):
        load_baseline("folding", task="m2s")
    for name in SIGNAL_PROCESSING:
        with pytest.raises(ConfigError, match="takes no weights"):
            load_baseline(name, weights="x.safetensors", task="bwe")  # type: ignore[arg-type]
