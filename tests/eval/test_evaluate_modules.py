"""Modules and the low bands that they were trained on, as rows of an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reencoder_eval.clips.choose import choose_clips
from reencoder_eval.clips.read import load_clip
from reencoder_eval.evaluation_folder import (
    REPORT,
    RUN,
)
from reencoder_eval.low_band import low_band_of
from reencoder_eval.metrics.score import score_clip
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.autoencoder import Autoencoder
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.errors import CheckpointError, EvaluationError, ReencoderError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.trained_module import LowBand, load_module, save_module
from tiny_evaluation import RATE, Evaluate, scores_of, write_module


def test_a_module_of_another_kind_is_refused(evaluate: Evaluate, autoencoder: Autoencoder, tmp_path: Path) -> None:
    foreign = write_module(tmp_path / "a.safetensors", replace(autoencoder.spec, weights="other"))
    with pytest.raises(ReencoderError, match="different autoencoders"):
        evaluate(tmp_path / "run", modules=[{"label": "x", "path": foreign}])
    other_task = write_module(tmp_path / "b.safetensors", autoencoder.spec, task="m2s")
    with pytest.raises(CheckpointError, match="trained for another task"):
        evaluate(tmp_path / "run", modules=[{"label": "x", "path": other_task}])


def low_band_module(path: Path, spec: LatentSpec, *, rate: int | None, resampler: str | None = "soxr_vhq") -> Path:
    trained = load_module(write_module(path, spec))
    save_module(replace(trained, low_band=LowBand(rate, resampler)), path)
    return path


@pytest.mark.parametrize(("rate", "resampler"), [(11_025, "soxr_vhq"), (16_000, "torchaudio_default")])
def test_clips_are_made_as_the_module_was_trained(
    rate: int, resampler: str, evaluate: Evaluate, autoencoder: Autoencoder, songs: Path, tmp_path: Path
) -> None:
    """The input of all rows is that low band, and the edge between low and high band is where it ends."""
    module = low_band_module(tmp_path / "module.safetensors", autoencoder.spec, rate=rate, resampler=resampler)
    out = tmp_path / "run"
    evaluate(out, num_clips=1, modules=[{"label": "S <1>", "path": str(module)}])
    described = json.loads((out / RUN).read_text())
    assert (described["low_rate"], described["resampler"]) == (rate, resampler)
    assert described["title"] == f"Bandwidth extension, {rate / 1000:g} to 44.1 kHz"
    assert f"taps at {rate / 2:,.0f} Hz" in (out / REPORT).read_text()

    (clip,) = choose_clips(read_corpus(songs), task="bwe", num_clips=1, clip_seconds=1.0, seed=0).clips
    mono = load_clip(clip, task=get_task("bwe"), sample_rate=RATE, resampler="soxr_vhq").streams["mono"]
    low = low_band(mono[None], sample_rate=RATE, low_rate=rate, resampler=resampler)
    inner = slice(RATE // 2, RATE // 2 + RATE)
    expected = score_clip(low[:, inner], mono[None, inner], RATE, task="bwe", edge_hz=rate / 2)
    (found,) = scores_of(out, "sinc")
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert found["stft_d_low"] < 0.5 < found["stft_d_high"]

    # The module starts at the identity: it does what the bare autoencoder does of the same low band.
    (ours,), (start,) = scores_of(out, "ours:S <1>"), scores_of(out, "autoencoder_low_band")
    assert ours["stft_d_full"] == pytest.approx(start["stft_d_full"], rel=1e-3)


def test_modules_of_two_low_bands_are_no_rows_of_one_table(
    evaluate: Evaluate, autoencoder: Autoencoder, module: Path, tmp_path: Path
) -> None:
    other = low_band_module(tmp_path / "other.safetensors", autoencoder.spec, rate=11_025)
    both = [{"label": "a", "path": str(module)}, {"label": "b", "path": str(other)}]
    with pytest.raises(
        EvaluationError, match=r"different low bands[\s\S]*22050 Hz by soxr_vhq; .*11025 Hz by soxr_vhq"
    ):
        evaluate(tmp_path / "run", modules=both)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rate", [44_100, 48_000, 1_000_000])
def test_a_low_band_that_leaves_nothing_to_extend_is_an_error(
    rate: int, evaluate: Evaluate, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    module = low_band_module(tmp_path / "module.safetensors", autoencoder.spec, rate=rate)
    with pytest.raises(EvaluationError, match="leaves nothing to extend"):
        evaluate(tmp_path / "run", modules=[{"label": "a", "path": str(module)}])


def test_what_is_not_known_or_not_as_in_training_is_said(
    autoencoder: Autoencoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, spec = get_task("bwe"), autoencoder.spec
    loaded = [
        (path, load_module(low_band_module(path, spec, rate=rate, resampler=resampler)))
        for path, rate, resampler in ((tmp_path / "a", 22_050, "soxr_vhq"), (tmp_path / "b", None, None))
    ]
    assert low_band_of(task, loaded[:1], resampler=None, spec=spec) == (22_050, "soxr_vhq")
    assert capsys.readouterr().err == ""
    assert low_band_of(task, loaded, resampler=None, spec=spec) == (22_050, "soxr_vhq")
    said = f"{tmp_path / 'b'} does not record how its inputs were made: assuming 22050 Hz by soxr_vhq\n"
    assert capsys.readouterr().err == said
    assert low_band_of(task, loaded[:1], resampler="torchaudio_default", spec=spec) == (22_050, "torchaudio_default")
    assert "trained on a low band by soxr_vhq, not torchaudio_default" in capsys.readouterr().err
    assert low_band_of(get_task("m2s"), loaded, resampler=None, spec=spec) == (22_050, "soxr_vhq")
