"""Stereo metrics: what each of them sees and is blind to, their clamps, and what has no score."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from reencoder_eval.metrics.spectral import mel_distance, stft_distance
from reencoder_eval.metrics.stereo import CUES, LIMIT_DB, STEREO_METRICS, balance, near_mono, score_stereo, side_level
from reencoder_pipeline.errors import EvaluationError

RATE = 44_100
SIDE_DB = -9.0
LIMIT_NATURAL = LIMIT_DB * np.log(10) / 10


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gain(decibels: float) -> float:
    return 10 ** (decibels / 20)


def noise(seed: int, *, seconds: float = 1.0) -> np.ndarray:
    """White noise of level 0.1, faded and pulsed, so that something happens in time."""
    count = round(seconds * RATE)
    pulses = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * np.arange(count) / RATE)
    return (0.1 * pulses * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def stereo(mid: np.ndarray, side: np.ndarray) -> np.ndarray:
    return np.stack([mid + side, mid - side])


def panned(signal: np.ndarray, decibels: float) -> np.ndarray:
    """Left louder than right by that much."""
    return np.stack([gain(decibels / 2) * signal, gain(-decibels / 2) * signal])


def all_pass(signal: np.ndarray) -> np.ndarray:
    """The same magnitudes by frequency, the phase of a short burst of noise: a decorrelator."""
    burst = np.random.default_rng(7).standard_normal(1000) * np.exp(-np.arange(1000) / 200)
    phase = np.angle(np.fft.rfft(burst, 2 * len(signal)))
    turned = np.fft.irfft(np.fft.rfft(signal, 2 * len(signal)) * np.exp(1j * phase))
    return turned[: len(signal)].astype(np.float32)


MID, SIDE = noise(0), gain(SIDE_DB) * noise(1)
REFERENCE = stereo(MID, SIDE)


def scores_of(estimate: np.ndarray, reference: np.ndarray = REFERENCE) -> dict[str, float]:
    """The scores, each of which there must be one."""
    scores = score_stereo(estimate, reference, sample_rate=RATE)
    assert tuple(scores) == STEREO_METRICS
    found = {metric: value for metric, value in scores.items() if value is not None}
    assert all(type(value) is float and np.isfinite(value) for value in found.values())
    return found


def test_a_perfect_estimate() -> None:
    scores = scores_of(REFERENCE)
    assert scores.pop("balance") == scores.pop("balance_reference")
    assert scores == dict.fromkeys(set(STEREO_METRICS) - {"balance", "balance_reference"}, 0.0)


def test_views_are_those_of_the_paper() -> None:
    estimate = stereo(noise(2), 0.5 * noise(3))
    scores = scores_of(estimate)
    for view, x, y in (("left", estimate[0], REFERENCE[0]), ("right", estimate[1], REFERENCE[1])):
        assert scores[f"stft_d_{view}"] == stft_distance(x, y)
        assert scores[f"mel_d_{view}"] == mel_distance(x, y, sample_rate=RATE)
    assert scores["stft_d_mid"] == pytest.approx(stft_distance(noise(2), MID), rel=1e-4)
    assert scores["stft_d_side"] == pytest.approx(stft_distance(0.5 * noise(3), SIDE), rel=1e-4)
    assert scores["mel_d_side"] == pytest.approx(mel_distance(0.5 * noise(3), SIDE, sample_rate=RATE), rel=1e-4)


def test_what_distances_reward_and_cues_do_not() -> None:
    """A mono copy beats an all-pass upmix of the right width on left and right, and loses on the side and its level."""
    mono = scores_of(stereo(MID, 0 * MID))
    upmix = scores_of(stereo(MID, gain(SIDE_DB) * all_pass(MID)))
    for name in ("stft_d", "mel_d"):
        assert max(mono[f"{name}_mid"], upmix[f"{name}_mid"]) < 1e-3
        for view in ("left", "right"):
            assert mono[f"{name}_{view}"] < 0.8 * upmix[f"{name}_{view}"]
        assert mono[f"{name}_side"] > 3 * upmix[f"{name}_side"]
    assert mono["side_level_error"] == pytest.approx(-LIMIT_DB - SIDE_DB, abs=0.1)
    assert upmix["side_level_error"] == pytest.approx(0.0, abs=0.1)
    assert mono["coherence_error"] > 3 * upmix["coherence_error"]


def test_swapped_channels_are_seen_by_position_alone() -> None:
    reference = np.stack([noise(0), 0.5 * noise(1)])
    scores = scores_of(reference[::-1], reference)
    assert scores["stft_d_side"] == scores["mel_d_side"] == 0.0
    assert scores["side_level_error"] == scores["coherence_error"] == 0.0
    assert scores["level_difference_error"] == pytest.approx(4 * 10 * np.log10(2), rel=0.1)
    assert scores["balance"] == pytest.approx(-scores["balance_reference"]) == pytest.approx(-np.log(4), rel=0.02)
    assert min(scores["stft_d_left"], scores["mel_d_left"]) > 0.3


def test_the_side_level_error_is_signed() -> None:
    for decibels in (6.0, -6.0):
        scores = scores_of(stereo(MID, gain(decibels) * SIDE))
        assert scores["side_level_error"] == pytest.approx(decibels, abs=0.01)
        assert scores["side_level_abs"] == pytest.approx(6.0, abs=0.01)


def test_coherence_of_known_signals() -> None:
    """Equal channels 1, opposite ones -1, independent ones 0; and in between, what shared power says."""
    same, opposite = np.stack([MID, MID]), np.stack([MID, -MID])
    apart = np.stack([noise(2, seconds=4), noise(3, seconds=4)])
    assert scores_of(opposite, same)["coherence_error"] == pytest.approx(2.0, abs=1e-6)
    long = np.stack([noise(2, seconds=4)] * 2)
    assert scores_of(apart, long)["coherence_error"] == pytest.approx(1.0, abs=0.05)
    half = np.stack([noise(2, seconds=4) + noise(4, seconds=4), noise(2, seconds=4) + noise(5, seconds=4)])
    assert scores_of(half, long)["coherence_error"] == pytest.approx(0.5, abs=0.05)


def test_coherence_is_one_number_for_every_band() -> None:
    """Opposite channels above 5 kHz only: 1 ERB wide bands, so 14 of 43 lie there, not three quarters."""
    spectrum = np.fft.rfft(MID)
    spectrum[np.fft.rfftfreq(len(MID), 1 / RATE) > 5_000] *= -1
    turned = np.fft.irfft(spectrum, len(MID)).astype(np.float32)
    scores = scores_of(np.stack([MID, turned]), np.stack([MID, MID]))
    assert scores["coherence_error"] == pytest.approx(2 * 14 / 43, abs=0.05)


def test_level_differences_of_known_signals() -> None:
    scores = scores_of(panned(MID, 4.0), panned(MID, -6.0))
    assert scores["level_difference_error"] == pytest.approx(10.0, abs=1e-3)
    assert scores["coherence_error"] == pytest.approx(0.0, abs=1e-6)
    assert scores["balance"] == pytest.approx(np.log(10**0.4), abs=1e-4)
    assert scores["balance_reference"] == pytest.approx(np.log(10**-0.6), abs=1e-4)


def test_only_frames_count_in_which_the_reference_is_audible() -> None:
    """Half of the reference is at -90 dBFS; the estimate's noise there, all on one side, is not held against it."""
    quiet = np.where(np.arange(RATE) < RATE // 2, 1.0, 3e-4)
    reference = (panned(MID, 3.0) * quiet).astype(np.float32)
    estimate = reference.copy()
    estimate[0, RATE // 2 + 2048 :] += 0.01 * noise(5)[RATE // 2 + 2048 :]
    assert scores_of(estimate, reference)["level_difference_error"] < 0.05
    assert scores_of(estimate, (panned(MID, 3.0)).astype(np.float32))["level_difference_error"] > 1


def test_a_channel_that_is_silent_is_clamped() -> None:
    empty = np.stack([MID, 0 * MID])
    assert balance(empty) == pytest.approx(LIMIT_NATURAL, rel=1e-3)
    assert balance(empty[::-1]) == pytest.approx(-LIMIT_NATURAL, rel=1e-3)
    against = score_stereo(panned(MID, 0.0), empty, sample_rate=RATE)
    assert against["stft_d_right"] is None
    assert against["mel_d_right"] is None
    assert against["level_difference_error"] == pytest.approx(LIMIT_DB, rel=1e-3)
    assert against["coherence_error"] == pytest.approx(1.0, abs=1e-6)
    assert sum(value is None for value in against.values()) == 2
    emptied = scores_of(empty, REFERENCE)
    assert set(emptied) == set(STEREO_METRICS)
    assert 30 < emptied["level_difference_error"] <= LIMIT_DB + 10


def test_the_side_level_is_clamped() -> None:
    assert side_level(np.stack([MID, MID])) == pytest.approx(-LIMIT_DB, abs=0.01)
    assert side_level(np.stack([MID, -MID])) == pytest.approx(LIMIT_DB, abs=0.01)
    assert side_level(stereo(MID, gain(-60) * MID)) == pytest.approx(-LIMIT_DB, abs=0.01)
    assert side_level(stereo(MID, gain(-20) * MID)) == pytest.approx(-20.0, abs=0.01)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (stereo(MID, 0 * MID), True),
        (4 * stereo(MID, gain(-41) * MID), True),
        (4 * stereo(MID, gain(-39) * MID), False),
        (stereo(gain(-20) * MID, gain(-45) * MID), True),  # a side of -66 dBFS, 25 dB below the mid
        (stereo(0 * MID, MID), False),
        (0 * REFERENCE, True),
    ],
    ids=["mono", "below -40 dB", "above -40 dB", "quiet side", "opposite", "silence"],
)
def test_near_mono(reference: np.ndarray, expected: bool) -> None:
    assert near_mono(reference) is expected


def test_a_near_mono_reference_has_cues_and_no_side_distance() -> None:
    scores = score_stereo(REFERENCE, stereo(MID, 0 * MID), sample_rate=RATE)
    assert [metric for metric, value in scores.items() if value is None] == ["stft_d_side", "mel_d_side"]
    assert scores["side_level_error"] == pytest.approx(LIMIT_DB + SIDE_DB, abs=0.1)


def test_silence() -> None:
    for silent in (0 * REFERENCE, 0.005 * REFERENCE):
        assert score_stereo(REFERENCE, silent, sample_rate=RATE) == dict.fromkeys(STEREO_METRICS)
    scores = score_stereo(0 * REFERENCE, REFERENCE, sample_rate=RATE)
    assert {metric for metric, value in scores.items() if value is None} == set(CUES)
    assert balance(0 * REFERENCE) is None


@pytest.mark.parametrize(
    ("estimate", "reference", "message"),
    [
        (REFERENCE[:, 1:], REFERENCE, r"the same shape, \(2, samples\)"),
        (REFERENCE[:1], REFERENCE[:1], "the same shape"),
        (REFERENCE[0], REFERENCE[0], "the same shape"),
        (REFERENCE[:, :2000], REFERENCE[:, :2000], "at least 2048 samples"),
        (REFERENCE, REFERENCE * np.array([[1], [np.nan]], np.float32), "not finite"),
    ],
    ids=["length", "one", "flat", "short", "nan"],
)
def test_what_cannot_be_compared_is_an_error(estimate: np.ndarray, reference: np.ndarray, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        score_stereo(estimate, reference, sample_rate=RATE)
