"""Models of hearing: the real ones where they are installed, and what is promised without them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from reencoder_eval.metrics import hearing_models as listening_quality
from reencoder_eval.metrics.hearing_models import PACKAGES, visqol_mos, zimtohrli_mos
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.errors import EvaluationError

RATE = 44_100
MEASURES = {"zimtohrli": zimtohrli_mos, "visqol": visqol_mos}
BEST = {"zimtohrli": 5.0, "visqol": 4.73}
both = pytest.mark.parametrize("name", MEASURES)

Measure = Callable[[np.ndarray, np.ndarray], float]


def noise(seed: int, *, channels: int = 1, seconds: float = 1.0) -> np.ndarray:
    shape = (channels, round(seconds * RATE))
    return (0.05 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Measure], None]]:
    """install(measure): both packages are there, and say measure(estimate, reference)."""

    def put(measure: Measure) -> None:
        class VisqolApi:
            def create(self, *, mode: str) -> None:
                assert mode == "audio"

            def measure_from_arrays(self, reference: np.ndarray, estimate: np.ndarray, rate: int) -> SimpleNamespace:
                assert rate == 48_000
                return SimpleNamespace(moslqo=measure(estimate, reference))

        monkeypatch.setitem(sys.modules, "zimtohrli", SimpleNamespace(mos_from_signals=measure))
        monkeypatch.setitem(sys.modules, "visqol", SimpleNamespace(VisqolApi=VisqolApi))

    listening_quality._visqol.cache_clear()
    yield put
    listening_quality._visqol.cache_clear()


@both
def test_the_real_one_prefers_the_original_to_its_low_band(name: str) -> None:
    pytest.importorskip(name)
    measure = MEASURES[name]
    reference = noise(0)
    assert measure(reference, reference, sample_rate=RATE) == pytest.approx(BEST[name], abs=0.01)
    worse = measure(low_band(reference, sample_rate=RATE), reference, sample_rate=RATE)
    assert worse is not None
    assert 1 <= worse < BEST[name] - 0.5


@both
def test_a_missing_package_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listening_quality._visqol.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EvaluationError, match=rf"needs the package {PACKAGES[name]}(.|\n)*reencoder\[perceptual\]"):
        MEASURES[name](noise(0), noise(0), sample_rate=RATE)


@both
def test_channels_are_heard_one_by_one_at_48_khz(name: str, install: Callable[[Measure], None]) -> None:
    heard: list[tuple[int, ...]] = []

    def measure(estimate: np.ndarray, reference: np.ndarray) -> float:
        heard.append(estimate.shape + reference.shape)
        return float(np.log2(np.std(reference) / np.std(estimate)))  # the wrong order would change its sign

    install(measure)
    reference = noise(0, channels=2)
    estimate = reference / np.array([[2], [8]], np.float32)
    assert MEASURES[name](estimate, reference, sample_rate=RATE) == pytest.approx(2.0, abs=1e-3)
    assert heard == [(48_000, 48_000)] * 2


@both
def test_silence_has_no_score(name: str, install: Callable[[Measure], None]) -> None:
    install(lambda estimate, reference: 3.0)
    one_channel_silent = noise(0, channels=2) * np.array([[1], [1e-5]], np.float32)
    assert MEASURES[name](noise(1, channels=2), one_channel_silent, sample_rate=RATE) is None
    assert MEASURES[name](one_channel_silent, noise(1, channels=2), sample_rate=RATE) is None
    assert MEASURES[name](noise(1), noise(0), sample_rate=RATE) == 3.0


@both
@pytest.mark.parametrize(
    ("estimate", "reference", "message"),
    [
        (noise(0)[:, 1:], noise(0), "the same shape"),
        (noise(0)[0], noise(0)[0], r"\(channels, samples\)"),
        (noise(0, seconds=0.9), noise(0, seconds=0.9), "at least 1 s"),
        (noise(0) * np.nan, noise(0), "not finite"),
    ],
    ids=["length", "flat", "short", "nan"],
)
def test_what_cannot_be_compared_never_reaches_the_package(
    name: str, estimate: np.ndarray, reference: np.ndarray, message: str, install: Callable[[Measure], None]
) -> None:
    install(lambda estimate, reference: pytest.fail("it crashes, or never comes back"))
    with pytest.raises(EvaluationError, match=message):
        MEASURES[name](estimate, reference, sample_rate=RATE)
