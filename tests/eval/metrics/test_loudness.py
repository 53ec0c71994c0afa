"""Loudness: the known answers of ITU-R BS.1770 and EBU Tech 3341, and gains that match without clipping."""

from __future__ import annotations

import numpy as np
import pytest

from reencoder_eval.metrics.loudness import integrated_loudness, k_weighting, matching_gains


def sine(*levels_and_seconds: tuple[float, float], hertz: float = 1000.0, rate: int = 48_000) -> np.ndarray:
    """(samples,): stretches of one sine, each with its peak level in dBFS and its length."""
    level = np.concatenate([np.full(round(seconds * rate), 10 ** (db / 20)) for db, seconds in levels_and_seconds])
    return level * np.sin(2 * np.pi * hertz * np.arange(len(level)) / rate)


def test_the_weighting_is_the_table_of_the_recommendation() -> None:
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585]
    high_pass = [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621]
    assert k_weighting(48_000) == pytest.approx(np.array([shelf, high_pass]), abs=1e-10)


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_sine_at_full_scale_in_one_channel_is_at_minus_3(rate: int) -> None:
    audio = sine((0, 2), hertz=997.0, rate=rate)
    assert integrated_loudness(audio[None], sample_rate=rate) == pytest.approx(-3.01, abs=0.01)
    assert integrated_loudness(np.stack([audio, 0 * audio]), sample_rate=rate) == pytest.approx(-3.01, abs=0.01)
    assert integrated_loudness(np.stack([audio, audio]), sample_rate=rate) == pytest.approx(0.0, abs=0.01)


def test_low_frequencies_count_less_and_high_ones_more() -> None:
    low, middle, high = (
        integrated_loudness(sine((-20, 1), hertz=f)[None], sample_rate=48_000) for f in (30, 997, 8000)
    )
    assert low is not None
    assert middle is not None
    assert high is not None
    assert low < middle - 6
    assert high == pytest.approx(middle + 3.3, abs=0.1)  # the shelf's 4 dB above what it has at 997 Hz


@pytest.mark.parametrize(
    "stretches",
    [
        ((-36, 10), (-23, 60), (-36, 10)),  # EBU Tech 3341, case 3: the relative gate
        ((-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)),  # case 4: both gates
        ((-26, 20), (-20, 20.1), (-26, 20)),  # case 5: nothing is gated
    ],
)
def test_quiet_stretches_do_not_count(stretches: tuple[tuple[float, float], ...]) -> None:
    audio = sine(*stretches, rate=44_100)
    assert integrated_loudness(np.stack([audio, audio]), sample_rate=44_100) == pytest.approx(-23.0, abs=0.1)


def test_silence_and_less_than_a_block_have_no_loudness() -> None:
    assert integrated_loudness(np.zeros((2, 48_000), np.float32), sample_rate=48_000) is None
    assert integrated_loudness(sine((-80, 1))[None], sample_rate=48_000) is None
    assert integrated_loudness(sine((-3, 0.39))[None], sample_rate=48_000) is None
    assert integrated_loudness(sine((-3, 0.4))[None], sample_rate=48_000) is not None


def test_played_with_the_gains_all_are_as_loud_as_the_first() -> None:
    rng = np.random.default_rng(0)
    signals = [level * rng.standard_normal((2, 48_000)) for level in (0.1, 0.02, 0.15)]
    loudness = [integrated_loudness(signal, sample_rate=48_000) for signal in signals]
    gains = matching_gains(loudness, [float(np.abs(signal).max()) for signal in signals])
    assert gains[0] == 1.0
    matched = [integrated_loudness(g * signal, sample_rate=48_000) for g, signal in zip(gains, signals, strict=True)]
    assert matched == pytest.approx([loudness[0]] * 3)


def test_all_are_lowered_where_one_would_clip() -> None:
    assert matching_gains([-20.0, -26.0206, -20.0], [0.5, 1.0, 0.5]) == pytest.approx([0.5, 1.0, 0.5], rel=1e-4)


def test_what_has_no_loudness_is_played_as_it_is() -> None:
    assert matching_gains([None, -20.0], [0.0, 0.5]) == [1.0, 1.0]
    assert matching_gains([-20.0, None, -40.0], [0.1, 0.0, 0.01]) == pytest.approx([1.0, 1.0, 10.0])
