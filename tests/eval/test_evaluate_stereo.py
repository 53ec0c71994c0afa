"""An evaluation of mono-to-stereo: its rows, conditions, cues, baselines before and after the autoencoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from reencoder_eval.baselines.baseline import Baseline
from reencoder_eval.cli.evaluate import app, request_of
from reencoder_eval.config import EvalConfig
from reencoder_eval.evaluate import evaluate
from reencoder_eval.evaluation_folder import BALANCES, CHART, COSTS, MARKDOWN, REPORT, RUN, SCORES, TABLES, read_rows
from reencoder_eval.tables.summary import summarise
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.trained_module import TrainedModule, save_module

RATE = 44_100
ROWS = (
    "autoencoder", "mono_copy", "autoencoder_mono", "decorrelation", "autoencoder+decorrelation",
    "ours:M:lambda=0", "ours:M:lambda=0.25", "ours:M:lambda=0.5", "ours:M:lambda=0.75", "ours:M:lambda=1",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stereo songs, one that is nearly mono, and a mono one."""
    folder = tmp_path_factory.mktemp("songs")
    for number, width in enumerate((0.5, 1.0, 0.001)):
        random = np.random.default_rng(number)
        mid, side = random.standard_normal((2, round(2.5 * RATE))) * [[0.1], [0.1 * width]]
        soundfile.write(str(folder / f"{number}.wav"), np.stack([mid + side, mid - side], axis=1), RATE, "FLOAT")
    soundfile.write(str(folder / "mono.wav"), 0.1 * random.standard_normal(round(2.5 * RATE)), RATE)
    return folder


@pytest.fixture(scope="module")
def autoencoder(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


@pytest.fixture(scope="module")
def module(autoencoder: Autoencoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose output depends on its condition, and whose posterior depends on the target."""
    channels, spec = autoencoder.spec.channels, autoencoder.spec
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LatentModule(channels, 2 * channels, blocks=1, width=16, condition_channels=4, output="residual")
        encoder = ConditionEncoder(2 * channels, 4, blocks=1, width=16)
        for parameter in [*network.parameters(), *encoder.head.parameters()]:
            torch.nn.init.normal_(parameter, std=0.2)
    scalings = (Scaling(torch.zeros(n, 1), torch.ones(n, 1)) for n in (channels, 2 * channels))
    path = tmp_path_factory.mktemp("module") / "module.safetensors"
    save_module(TrainedModule(network, get_task("m2s"), spec, Normalisation(*scalings), {}, encoder), path)
    return path


Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(songs: Path, tiny_autoencoder: Path, module: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    def evaluated(**changes: Any) -> Path:
        out = tmp_path_factory.mktemp("eval") / "run"
        settings = {
            "source": songs, "split": None, "autoencoder": str(tiny_autoencoder), "task": "m2s", "num_clips": 2,
            "modules": [{"label": "M", "path": module}], "baselines": [{"name": "decorrelation"}],
            "clip_seconds": 1.0, "listening_clips": 1, "workers": 0, "out": out, **changes,
        }  # fmt: skip
        evaluate(request_of(EvalConfig.model_validate(settings)))
        return out

    return evaluated


@pytest.fixture(scope="module")
def finished(run: Run) -> Path:
    return run()


def scores(run: Path, system: str) -> list[dict[str, float]]:
    return [row["scores"] for row in read_rows(run / SCORES) if row["system"] == system]


def test_rows_of_both_scenarios_and_of_all_conditions(finished: Path) -> None:
    rows = read_rows(finished / SCORES)
    assert tuple(row["system"] for row in rows) == 2 * ROWS
    assert tuple(summarise(rows).labels) == tuple(name for name in ROWS if "0." not in name)
    for row in rows:
        between = "0." in row["system"]
        assert set(row["scores"]) == {"balance", "balance_reference"} if between else "stft_d_side" in row["scores"]
        assert all(value is not None and np.isfinite(value) for value in row["scores"].values())


def test_the_rows_are_what_they_say(finished: Path) -> None:
    for mono, ceiling in zip(scores(finished, "mono_copy"), scores(finished, "autoencoder"), strict=True):
        assert mono["stft_d_mid"] < 1e-3 < ceiling["stft_d_mid"]
        assert mono["balance"] == pytest.approx(0.0, abs=1e-4)
    for upmix in scores(finished, "decorrelation"):
        assert upmix["stft_d_mid"] < 1e-3
    for random, oracle in zip(scores(finished, "ours:M:lambda=0"), scores(finished, "ours:M:lambda=1"), strict=True):
        assert random["stft_d_left"] != oracle["stft_d_left"]


def test_nearly_mono_excerpts_are_passed_over_and_named(finished: Path) -> None:
    described = json.loads((finished / RUN).read_text())
    assert {clip["track"] for clip in described["clips"]}.isdisjoint({"2.wav", "mono.wav"})
    assert len(described["near_mono"]) >= 1
    assert "nearly mono" in (finished / REPORT).read_text()


def test_only_nearly_mono_music_is_an_error(songs: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "only.wav").write_bytes((songs / "2.wav").read_bytes())
    with pytest.raises(EvaluationError, match="nearly mono"):
        run(source=tmp_path)


def test_conditions_are_drawn_by_the_seed_and_the_clip(finished: Path, run: Run) -> None:
    again, other = (scores(run(num_clips=1, seed=seed), "ours:M:lambda=0") for seed in (0, 1))
    first = scores(finished, "ours:M:lambda=0")[0]
    for one in (first, again[0], other[0]):
        del one["latent_l1"]  # in units that all clips of a run decide
    assert again[0] == first
    assert other[0] != first


def test_figure_three_and_costs(finished: Path) -> None:
    assert "λ = 0.25" in (finished / BALANCES).read_text()
    costs = json.loads((finished / COSTS).read_text())
    assert "ours:M:lambda=0.5" not in costs["systems"]
    oracle = costs["systems"]["ours:M:lambda=1"]
    assert oracle["module"]["gflops"] > 0
    assert costs["systems"]["autoencoder+decorrelation"]["stages"] == ["encode", "decode"]


def test_tables_figures_and_page_can_be_made_anew(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    made = [copy / name for name in (TABLES, MARKDOWN, CHART, BALANCES, REPORT)]
    for file in made:
        file.unlink()
    result = CliRunner().invoke(app, ["report", str(copy)])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(copy / REPORT)
    for file in made:
        assert file.read_bytes() == (finished / file.name).read_bytes()


def untrained(*, weights: Path | None, device: str) -> Baseline:
    from reencoder_eval.metrics.flops import FlopCount

    assert (weights, device) == (None, "cpu")
    return Baseline("big", "Big", "a model", "m2s", "0", None, lambda: FlopCount(100.0, 5))


def test_a_model_without_weights_has_a_cost_and_no_scores(run: Run) -> None:
    name = "test_evaluate_stereo:untrained"
    out = run(num_clips=1, modules=[], baselines=[{"name": name}, {"name": name, "label": "Small"}])
    assert "big" not in {row["system"] for row in read_rows(out / SCORES)}
    big = json.loads((out / COSTS).read_text())["systems"]["big"]
    assert (big["trained"], big["module"]["gflops"], big["times_real_time"]) == (False, 100.0, None)
    page = (out / REPORT).read_text()
    assert "Big (no weights: counted only)" in page
    assert "Small (no weights: counted only)" in page, "the same baseline again, under another label"
    assert "a model" not in page, "it went through nothing: the list of systems leaves it out"
