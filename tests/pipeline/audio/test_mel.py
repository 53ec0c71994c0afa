"""Without a torchaudio that loads, filters, training and scores are the same; only its resampling is missing."""

from __future__ import annotations

import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from reencoder_eval.metrics.spectral import mel_filterbank
from reencoder_pipeline.audio.mel import mel_filters
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.errors import ConfigError
from tiny_cache import write_cache
from training_run import RECIPES, rows, run

NOISE = np.random.default_rng(0).standard_normal((2, 8_192)).astype(np.float32)
FAILURES = [ImportError("none"), OSError("libc10_cuda.so"), RuntimeError("CUDA versions")]


class Broken(Loader):
    """Finds a torchaudio that is installed and does not load."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == "torchaudio" else None

    def exec_module(self, module: ModuleType) -> None:
        raise self.failure


def break_torchaudio(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(failure), *sys.meta_path])


@pytest.fixture(params=FAILURES, ids=lambda failure: type(failure).__name__)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """Within the test torchaudio does not load."""
    break_torchaudio(monkeypatch, request.param)
    return request.param


TOLERANCES = {  # of (n_fft, bands, sample rate): torchaudio computes in float32
    (512, 48, 44_100): 1.2e-7, (1024, 128, 44_100): 1.2e-7, (2048, 128, 48_000): 1.2e-7,
    (2048, 320, 44_100): 8e-7, (1024, 128, 16_000): 3e-7,
}  # fmt: skip
SIZES = list(TOLERANCES)
EXPECTED = {sizes: mel_filters(sizes[0], bands=sizes[1], sample_rate=sizes[2]) for sizes in SIZES}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_filters_are_the_same_without_torchaudio(sizes: tuple[int, int, int], broken: Exception) -> None:
    n_fft, bands, sample_rate = sizes
    found = mel_filters(n_fft, bands=bands, sample_rate=sample_rate)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, EXPECTED[sizes], rtol=0, atol=TOLERANCES[sizes])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_filters_are_those_of_transformers(sizes: tuple[int, int, int]) -> None:
    n_fft, bands, rate = sizes
    bank = mel_filter_bank(n_fft // 2 + 1, bands, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(EXPECTED[sizes], torch.from_numpy(bank.T).float(), rtol=0, atol=TOLERANCES[sizes])


def test_training_and_scores_do_without_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_cache(tmp_path / "cache")
    losses, filters = [], []
    for name in ("with", "without"):
        run(cache, tmp_path / name, **RECIPES["mel"], steps=3, log_every=1, valid_every=0)
        losses.append([row["mel"] for row in rows(tmp_path / name, "train")])
        filters.append(mel_filterbank(44_100))
        break_torchaudio(monkeypatch, ImportError("none"))
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(filters[1], filters[0], rtol=0, atol=1.2e-7)


def test_resampling_by_torchaudio_says_what_is_missing(broken: Exception) -> None:
    message = r"(?s)torchaudio_default needs torchaudio, .*\d+\.\d+.* does not load beside torch \d+\.\d+.*soxr_vhq"
    with pytest.raises(ConfigError, match=message) as caught:
        resample(NOISE, 44_100, 22_050, resampler="torchaudio_default")
    assert str(broken) in str(caught.value)
