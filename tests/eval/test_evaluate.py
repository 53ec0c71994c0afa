"""An evaluation from configuration to run folder: complete, resumable, open about failures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import reencoder_eval.evaluate as evaluation
from reencoder_eval.clips.choose import choose_clips
from reencoder_eval.clips.read import ClipAudio, load_clip
from reencoder_eval.evaluation_folder import (
    COSTS,
    FAILURES,
    JOURNAL,
    LATENT_SCORES,
    LATENTS,
    REPORT,
    RUN,
    SCORES,
    audio_path,
    read_rows,
)
from reencoder_eval.metrics import score as scoring
from reencoder_eval.metrics.spectral import METRICS
from reencoder_eval.request import EvaluationRequest
from reencoder_eval.run_systems import Scoring, Setup
from reencoder_eval.systems.costs import measure_costs
from reencoder_eval.systems.rows import systems_of
from reencoder_eval.systems.system import System
from reencoder_pipeline.autoencoder import Autoencoder
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.tasks import get_task
from tiny_evaluation import CLIPS, LISTENING, RATE, ROWS, Evaluate, scores_of


def test_every_clip_is_scored_for_every_system(finished: Path) -> None:
    rows = read_rows(finished / SCORES)
    clips = [clip["id"] for clip in json.loads((finished / RUN).read_text())["clips"]]
    assert [(row["clip"], row["system"]) for row in rows] == [(clip, name) for clip in clips for name in ROWS]
    assert len(clips) == CLIPS
    for row in rows:
        assert tuple(row["scores"]) == (*METRICS, "lsd_full", "lsd_low", "lsd_high", "latent_l1")
        assert np.isfinite(list(row["scores"].values())).all()
    assert read_rows(finished / FAILURES) == []
    assert not (finished / JOURNAL).exists()


def test_the_rows_are_what_they_say(finished: Path) -> None:
    sinc = scores_of(finished, "sinc")
    assert all(2 * scores["stft_d_low"] < scores["stft_d_high"] for scores in sinc), sinc
    # A module that changes nothing is the autoencoder on the low band, not the low band and not the full band.
    assert scores_of(finished, "ours:S <1>") == scores_of(finished, "autoencoder_low_band")
    assert scores_of(finished, "ours:S <1>") != scores_of(finished, "autoencoder")


def test_estimates_of_the_listening_clips_are_kept(finished: Path) -> None:
    rows = read_rows(finished / SCORES)
    listening = json.loads((finished / RUN).read_text())["listening"]
    assert len(listening) == LISTENING
    expected = {audio_path(finished, clip, "reference") for clip in listening}
    expected |= {audio_path(finished, r["clip"], r["system"], key=r["key"]) for r in rows if r["clip"] in listening}
    assert set((finished / "audio").iterdir()) == expected
    for file in expected:
        info = soundfile.info(str(file))
        assert (info.format, info.subtype, info.frames, info.samplerate) == ("FLAC", "PCM_16", RATE, RATE)


def test_costs_are_those_of_the_module_and_of_the_passes_around_it(finished: Path) -> None:
    costs = json.loads((finished / COSTS).read_text())
    assert costs["autoencoder"]["encode"]["gflops"] > 0
    assert [costs["systems"][name]["stages"] for name in ROWS] == [
        ["encode", "decode"],
        [],
        *[["encode", "decode"]] * 2,
    ]
    assert [costs["systems"][name]["module"] is None for name in ROWS] == [True, True, True, False]
    assert costs["systems"]["ours:S <1>"]["module"]["gflops"] > 0
    assert costs["systems"]["ours:S <1>"]["times_real_time"] > 0


def test_models_of_hearing_are_asked_only_where_wanted(
    finished: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "zimtohrli" not in scores_of(finished, "sinc")[0]
    monkeypatch.setattr(scoring, "zimtohrli_mos", lambda *_, sample_rate: 3.5)
    monkeypatch.setattr(evaluation, "require_available", lambda names: None)
    evaluate(tmp_path / "run", num_clips=1, quality=["zimtohrli"])
    assert scores_of(tmp_path / "run", "sinc")[0]["zimtohrli"] == 3.5
    assert "Zimtohrli" in (tmp_path / "run" / REPORT).read_text()


def test_scores_in_latent_space(finished: Path) -> None:
    frechet = json.loads((finished / LATENT_SCORES).read_text())["frechet"]
    assert tuple(frechet) == ROWS
    for system in ROWS[:2]:
        assert all(scores["latent_l1"] > 0.01 for scores in scores_of(finished, system))
    assert frechet["ours:S <1>"] == frechet["autoencoder_low_band"] > 0
    assert len(list((finished / LATENTS).iterdir())) == CLIPS * (len(ROWS) + 1)


def broken(audio: ClipAudio) -> np.ndarray:
    if audio.clip.start % 2:
        raise EvaluationError("on purpose", value=audio.clip.start)
    return audio.stack(["mono"]) * np.float32(np.nan)


def test_a_failing_system_is_named_and_the_others_go_on(songs: Path, autoencoder: Autoencoder, tmp_path: Path) -> None:
    choice = choose_clips(read_corpus(songs), task="bwe", num_clips=3, clip_seconds=1.0, seed=0)
    clips = [replace(clip, start=clip.start - clip.start % 2 + number % 2) for number, clip in enumerate(choice.clips)]
    choice = replace(choice, clips=(*clips, replace(clips[0], start=10**9)))
    systems = [*systems_of(get_task("bwe"), autoencoder)[1:2], System("broken", "Broken", "fails", "0", broken)]
    request = EvaluationRequest(source=songs, out=tmp_path, listening_clips=0, workers=0)
    result = Scoring(request, Setup(systems, autoencoder)).run(choice)
    assert [row["system"] for row in result.rows] == ["sinc"] * 3
    assert [failure["what"] for failure in read_rows(tmp_path / FAILURES)] == [
        "the audio holds values that are not finite numbers",
        "on purpose",
        "the audio holds values that are not finite numbers",
        "the file cannot be read as audio",
    ]
    assert result.failures[0]["where"] == f"{clips[0].id}, Broken"


def test_nothing_scored_is_an_error(songs: Path, autoencoder: Autoencoder, tmp_path: Path) -> None:
    choice = choose_clips(read_corpus(songs), task="bwe", num_clips=1, clip_seconds=1.0, seed=0)
    request = EvaluationRequest(source=songs, out=tmp_path, listening_clips=0, workers=0)
    setup = Setup([System("broken", "Broken", "fails", "0", broken)], autoencoder)
    with pytest.raises(EvaluationError, match="no clip could be scored"):
        Scoring(request, setup).run(choice)


def test_an_uncountable_autoencoder_is_evaluated_all_the_same(
    songs: Path, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    class Wrapped:
        """Hides its modules from the counter."""

        spec, context = autoencoder.spec, autoencoder.context
        local, licence = autoencoder.local, autoencoder.licence

        def encode(self, audio: torch.Tensor) -> torch.Tensor:
            return autoencoder.encode(audio)

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return autoencoder.decode(latents)

    clip = choose_clips(read_corpus(songs), task="bwe", num_clips=1, clip_seconds=1.0, seed=0).clips[0]
    task = get_task("bwe")
    audio = load_clip(clip, task=task, sample_rate=RATE, resampler="soxr_vhq")
    measure_costs(systems_of(task, Wrapped()), audio, autoencoder=Wrapped(), device="cpu", run=tmp_path)
    count = json.loads((tmp_path / COSTS).read_text())["autoencoder"]["encode"]
    assert count["gflops"] is None
    assert "no module with weights" in count["note"]


def test_an_empty_split_is_an_error(evaluate: Evaluate, songs: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no track belongs to this split"):
        evaluate(tmp_path / "run", split="valid", valid_share=0.0)
