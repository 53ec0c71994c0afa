"""An evaluation from configuration to run folder: complete, resumable, open about failures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from typer.testing import CliRunner

import reencoder_eval.evaluate as evaluation
from reencoder_eval.cli.evaluate import app, request_of
from reencoder_eval.clips.choose import choose_clips
from reencoder_eval.clips.read import ClipAudio, load_clip
from reencoder_eval.config import EvalConfig
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
from reencoder_eval.low_band import low_band_of
from reencoder_eval.metrics import score as scoring
from reencoder_eval.metrics.score import score_clip
from reencoder_eval.metrics.spectral import METRICS
from reencoder_eval.request import EvaluationRequest
from reencoder_eval.run_systems import Evaluation, Scoring, Setup
from reencoder_eval.systems.costs import measure_costs
from reencoder_eval.systems.rows import systems_of
from reencoder_eval.systems.system import System
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.config import load_config
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.errors import CheckpointError, ConfigError, EvaluationError, ReencoderError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.trained_module import LowBand, TrainedModule, load_module, save_module

RATE, CLIPS, LISTENING = 44_100, 4, 2
ROWS = ("autoencoder", "sinc", "autoencoder_low_band", "ours:S <1>")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number in range(2):
        random = np.random.default_rng(number)
        audio = 0.2 * random.standard_normal((round(2.5 * RATE), 2)) * random.uniform(0.2, 1.0, size=(1, 2))
        soundfile.write(str(folder / f"song {number}.wav"), audio, RATE)
    return folder


@pytest.fixture(scope="module")
def autoencoder(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


def write_module(path: Path, spec: LatentSpec, *, task: str = "bwe", shift: float = 0.0) -> Path:
    """A module that starts at the identity, and adds `shift` to every latent."""
    channels = spec.channels, spec.channels * len(get_task(task).targets)
    module = LatentModule(*channels, blocks=1, width=16, output="residual")
    assert module.conv_out.bias is not None
    torch.nn.init.constant_(module.conv_out.bias, shift)
    inputs, targets = (Scaling(torch.zeros(count, 1), torch.ones(count, 1)) for count in channels)
    save_module(TrainedModule(module, get_task(task), spec, Normalisation(inputs, targets), {}), path)
    return path


@pytest.fixture(scope="module")
def module(autoencoder: Autoencoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_module(tmp_path_factory.mktemp("module") / "module.safetensors", autoencoder.spec)


@pytest.fixture(scope="module")
def settings(songs: Path, tiny_autoencoder: Path, module: Path) -> dict[str, Any]:
    return {
        "source": str(songs),
        "split": None,
        "autoencoder": str(tiny_autoencoder),
        "modules": [{"label": "S <1>", "path": str(module)}],
        "num_clips": CLIPS,
        "clip_seconds": 1.0,
        "listening_clips": LISTENING,
        "workers": 0,
    }


Evaluate = Callable[..., Evaluation]


@pytest.fixture(scope="module")
def evaluate(settings: dict[str, Any]) -> Evaluate:
    def run(out: Path, **changes: Any) -> Evaluation:
        config = EvalConfig.model_validate({**settings, **changes, "out": out})
        return evaluation.evaluate(request_of(config))

    return run


@pytest.fixture(scope="module")
def finished(evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. Not to be changed."""
    out = tmp_path_factory.mktemp("eval") / "run"
    evaluate(out)
    return out


def scores_of(run: Path, system: str) -> list[dict[str, float]]:
    return [row["scores"] for row in read_rows(run / SCORES) if row["system"] == system]


@pytest.fixture
def no_new_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **settings: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(scoring, "score_clip", refuse)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves its time where the page is not what is tested."""
    monkeypatch.setattr(evaluation, "write_report", lambda run: run)


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


@pytest.mark.usefixtures("no_new_scores")
def test_running_again_scores_nothing_again(finished: Path, evaluate: Evaluate) -> None:
    names = (SCORES, COSTS, RUN, REPORT, LATENT_SCORES)
    before = {name: (finished / name).read_bytes() for name in names}
    evaluate(finished)
    assert {name: (finished / name).read_bytes() for name in names} == before


@pytest.mark.usefixtures("no_page")
def test_only_what_changed_is_scored_again(
    finished: Path, evaluate: Evaluate, autoencoder: Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[float] = []
    whole = scoring.score_clip
    monkeypatch.setattr(scoring, "score_clip", lambda *a, **k: scored.append(1) or whole(*a, **k))
    evaluate(out := tmp_path / "run", num_clips=2)
    assert len(scored) == 2 * len(ROWS)
    scored.clear()
    evaluate(out, num_clips=3)
    assert len(scored) == len(ROWS)  # the two clips are known
    changed = write_module(tmp_path / "module.safetensors", autoencoder.spec, shift=0.5)
    scored.clear()
    evaluate(out, num_clips=3, modules=[{"label": "S <1>", "path": changed}])
    assert len(scored) == 3  # the module's rows alone
    assert scores_of(out, "ours:S <1>") != scores_of(out, "autoencoder_low_band")
    scored.clear()
    evaluate(out, num_clips=3, resampler="torchaudio_default")
    assert len(scored) == 3 * len(ROWS)  # other audio
    files = [path.name for path in (out / "audio").iterdir()]
    assert len(files) == LISTENING * (len(ROWS) + 1)  # none left of what was before


@pytest.mark.usefixtures("no_page")
def test_an_interrupted_run_goes_on(
    finished: Path, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = scoring.score_clip, iter(range(1000))

    def interrupt(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return whole(*arguments, **settings)

    out = tmp_path / "run"
    monkeypatch.setattr(scoring, "score_clip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(out)
    assert not (out / SCORES).exists()  # not complete, and nothing takes it for complete
    assert len(read_rows(out / JOURNAL)) == 5
    with (out / JOURNAL).open("a") as journal:
        journal.write('{"clip": "torn')
    scored: list[int] = []
    monkeypatch.setattr(scoring, "score_clip", lambda *a, **k: scored.append(1) or whole(*a, **k))
    evaluate(out)
    assert len(scored) == CLIPS * len(ROWS) - 5
    assert read_rows(out / SCORES) == read_rows(finished / SCORES)


@pytest.mark.usefixtures("no_page")
def test_scoring_processes_change_nothing(finished: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", workers=1, num_clips=1)
    expected = read_rows(finished / SCORES)[: len(ROWS)]
    found = read_rows(tmp_path / "run" / SCORES)
    assert [row["key"] for row in found] == [row["key"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        of_all_clips = {"latent_l1"}  # in units that the whole run decides
        scores, others = ({k: v for k, v in r["scores"].items() if k not in of_all_clips} for r in (row, other))
        assert scores == pytest.approx(others, rel=1e-4)


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
        "cannot be read as audio",
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
    measure_costs(systems_of(task, Wrapped()), audio, autoencoder=Wrapped(), device="cpu", path=tmp_path / COSTS)
    count = json.loads((tmp_path / COSTS).read_text())["autoencoder"]["encode"]
    assert count["gflops"] is None
    assert "no module with weights" in count["note"]


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
    said = f"{tmp_path / 'b'} does not know how its inputs were made: taken as 22050 Hz by soxr_vhq\n"
    assert capsys.readouterr().err == said
    assert low_band_of(task, loaded[:1], resampler="torchaudio_default", spec=spec) == (22_050, "torchaudio_default")
    assert "trained on a low band by soxr_vhq, not torchaudio_default" in capsys.readouterr().err
    assert low_band_of(get_task("m2s"), loaded, resampler=None, spec=spec) == (22_050, "soxr_vhq")


def test_an_empty_split_is_an_error(evaluate: Evaluate, songs: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no track belongs to this split"):
        evaluate(tmp_path / "run", split="valid", valid_share=0.0)


def command(settings: dict[str, Any], tmp_path: Path, *arguments: str) -> Any:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**settings, "out": str(tmp_path / "run")}))
    return CliRunner().invoke(app, [str(config), *arguments])


def test_the_command_prints_the_table_and_the_page(settings: dict[str, Any], tmp_path: Path) -> None:
    result = command(settings, tmp_path, "--set", "num_clips=1", "--set", "listening_clips=1")
    assert result.exit_code == 0, result.output
    assert "Ours (S <1>)" in result.stdout
    assert result.stdout.splitlines()[-1] == str(tmp_path / "run" / REPORT)
    assert (tmp_path / "run" / REPORT).is_file()
    again = command(settings, tmp_path, "--set", "num_clips=1", "--json")
    assert json.loads(again.stdout)["clips"] == 1


def test_the_command_exits_3_when_a_file_failed(settings: dict[str, Any], songs: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join([*map(str, sorted(songs.iterdir())), str(tmp_path / "absent.wav")]))
    result = command(settings, tmp_path, "--set", f"source={tmp_path / 'list.txt'}", "--set", "num_clips=1")
    assert result.exit_code == 3, result.output
    assert [Path(row["where"]).name for row in read_rows(tmp_path / "run" / FAILURES)] == ["absent.wav"]
    assert "absent.wav" in (tmp_path / "run" / REPORT).read_text()


def test_print_config_shows_every_setting_and_does_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    result = command(settings, tmp_path, "--print-config", "--set", "seed=7")
    shown = yaml.safe_load(result.stdout)
    assert set(shown) == set(EvalConfig.model_fields)
    assert shown["seed"] == 7
    assert not (tmp_path / "run").exists()


def test_the_default_command_can_be_named(settings: dict[str, Any], tmp_path: Path) -> None:
    command(settings, tmp_path, "--print-config")
    named = CliRunner().invoke(app, ["run", str(tmp_path / "config.yaml"), "--print-config"])
    first = CliRunner().invoke(app, ["--print-config", str(tmp_path / "config.yaml")])
    assert named.exit_code == first.exit_code == 0
    assert named.stdout == first.stdout


def test_labels_must_differ(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("source: a\nout: b\nmodules: [{label: S, path: x}, {label: S, path: y}]\n")
    with pytest.raises(ConfigError, match="must differ: S is repeated"):
        load_config(config, EvalConfig)
