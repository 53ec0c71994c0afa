"""Recipes: every loss teaches the module something, what is not finite stops it, what was validated is released."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reencoder_trainer.training.alarms as alarms_module
from reencoder_pipeline.cache.formats.zarr_shards import data_file
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import TrainingError
from reencoder_pipeline.training.autocast import Autocast
from reencoder_pipeline.training.ranks import Ranks
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.trained_module import TrainedModule, load_module
from reencoder_trainer.training.learner import Estimator, Learner
from reencoder_trainer.training.stopwatch import Stopwatch
from reencoder_trainer.training.validation import validate
from reencoder_trainer.windows.mapped_windows import WindowLoader
from tiny_cache import SPEC, write_cache
from training_run import RECIPES, TINY, at_step, caught_learners, load_state, rows, run, tensors_in

LONG = {"steps": 60, "valid_every": 60, "schedule": "cosine", "width": 32}
AGAINST = RECIPES["adversarial"]
BAD_STREAM = {"l1": "low_band", "adversarial": "mono", "variational": "left", "mel": "low_band"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("recipes") / "cache")


@pytest.fixture(scope="module")
def panned_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In each track `left` and `right` lie as far from `mono`, to either side, as nothing in `mono` tells."""
    lengths = {"train": [40] * 60, "valid": [40] * 20}
    path = write_cache(
        tmp_path_factory.mktemp("panned") / "cache", train_frames=lengths["train"], valid_frames=lengths["valid"]
    )
    generator = np.random.default_rng(1)
    for split, frames in lengths.items():
        width = 3 * generator.standard_normal(len(frames)).repeat(frames)[:, None]
        for stream, sign in (("left", 1), ("right", -1)):
            file = data_file(path / "shards" / split, stream)
            latents = np.memmap(file, dtype="<f2", mode="r+", shape=(sum(frames), SPEC.channels))
            latents[:, 2:] += (sign * width).astype("<f2")
            latents.flush()
    return path


@pytest.mark.parametrize("recipe", ["l1", "adversarial", "mel"])
@pytest.mark.parametrize("output", ["direct", "residual"])
def test_it_learns_more_than_predictions_without_a_module(
    recipe: str, output: str, cache: Path, tmp_path: Path
) -> None:
    valid = run(cache, tmp_path, **RECIPES[recipe], **LONG, output=output).valid
    assert valid["l1"] < 0.3 * min(valid["l1_no_module"], valid["l1_channel_means"])


@pytest.mark.parametrize("output", ["direct", "residual", "difference"])
def test_a_condition_holds_what_the_input_does_not(output: str, panned_cache: Path, tmp_path: Path) -> None:
    changes = {**LONG, "steps": 120, "valid_every": 120, "output": output}
    valid = run(panned_cache, tmp_path / "with", **RECIPES["variational"], **changes).valid
    assert valid["kl"] > 1.0
    assert valid["l1"] < 0.4 * min(valid["l1_no_module"], valid["l1_channel_means"])
    assert valid["l1"] < 0.4 * valid["l1_random"]
    if output == "direct":
        without = run(panned_cache, tmp_path / "without", task="m2s", **changes).valid
        assert valid["l1"] < 0.5 * without["l1"], "the oracle knows more than the input"


@pytest.mark.parametrize(("term", "steps"), [("feature_matching", 80), ("adversarial", 80), ("mel", 40), ("level", 80)])
def test_every_term_alone_teaches_the_module(term: str, steps: int, cache: Path, tmp_path: Path) -> None:
    """Beside a reconstruction loss that weighs nothing; D moves too, so the measure is a module that stands still."""
    recipe = {**RECIPES["mel" if term == "mel" else "adversarial"], "ema": 0.0, "steps": steps}
    losses = {"reconstruction": 1e-9, term: 1.0}
    for name, lr in (("taught", 0.01), ("still", 1e-9)):
        run(cache, tmp_path / name, **{**recipe, "losses": losses, "lr": lr, "valid_every": 0})
    taught, still = (rows(tmp_path / name, "train")[-1] for name in ("taught", "still"))
    assert taught[term] < 0.7 * still[term]


def test_a_discriminator_learns_to_tell_targets_from_estimates(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Against a module that hardly moves it wins, which is said once."""
    monkeypatch.setattr(alarms_module, "PATIENCE", 5)
    monkeypatch.setattr(alarms_module, "WON", 0.3)
    discriminator = {"channels": 8, "lr": 0.01, "warmup_steps": 0}
    run(cache, tmp_path, **{**AGAINST, "steps": 60, "lr": 1e-6, "discriminator": discriminator})
    first, *_, last = rows(tmp_path, "train")
    assert first["discriminator_loss"] > 0.5
    assert last["discriminator_loss"] < 0.2
    assert last["discriminator_target_score"] - last["discriminator_estimate_score"] > 0.5
    assert last["adversarial"] > first["adversarial"] - 0.1
    (warning,) = rows(tmp_path, "warning")
    assert 5 <= warning["step"] < 60
    assert "the discriminator wins: " in warning["text"]
    assert capfd.readouterr().err.count("warning: the discriminator wins") == 1


def test_a_discriminator_that_has_not_won_raises_no_alarm(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path, **AGAINST)
    assert rows(tmp_path, "warning") == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_latents_that_are_not_finite_stop_before_the_update(
    recipe: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = BAD_STREAM[recipe]
    at_step(monkeypatch, 8, lambda batch: batch[stream].fill_(float("nan")))
    text, learner = stopped(cache, tmp_path, monkeypatch, recipe)
    assert f"step 8, last good checkpoint {tmp_path / 'stopped/state.pt'} at step 6" in text
    assert f"latents that are not finite in: {stream}" in text
    assert "reencoder-cache verify" in text
    assert_stopped_at(7, learner, cache, tmp_path, monkeypatch, recipe)


@pytest.mark.parametrize("bad", ["discriminator", "gradient"])
def test_what_becomes_infinite_in_training_stops_before_the_update(
    bad: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners = caught_learners(monkeypatch)

    def spoil(_: object) -> None:
        learner = learners[0]
        if bad == "gradient":
            learner.estimator.module.conv_in.weight.register_hook(lambda gradient: gradient * float("inf"))
        else:
            assert learner.discriminator is not None
            with torch.no_grad():
                next(learner.discriminator.parameters()).fill_(float("inf"))

    at_step(monkeypatch, 8, spoil)
    recipe = "adversarial" if bad == "discriminator" else "variational"
    text, learner = stopped(cache, tmp_path, monkeypatch, recipe)
    assert "at step 6" in text
    assert "not finite in: no stream" in text
    assert "lower lr" in text
    assert_stopped_at(7, learner, cache, tmp_path, monkeypatch, recipe, parts={"estimator", "average", "optimizer"})


@pytest.mark.parametrize("recipe", ["adversarial", "variational"])
@pytest.mark.parametrize(("ema", "precision"), [(0.0, "bfloat16"), (0.9, "float32"), (0.9, "bfloat16")])
def test_what_is_released_is_what_was_validated(
    recipe: str, ema: float, precision: Autocast, cache: Path, tmp_path: Path
) -> None:
    """With `ema` the average of the weights, which are others than the raw ones; the state keeps both.

    The numbers belong to the precision of the run, which the module says, and are others in another one.
    """
    run(cache, tmp_path, **RECIPES[recipe] | {"ema": ema, "precision": precision})
    released = load_module(tmp_path / "module.safetensors")
    assert released.training["precision"] == precision
    valid = validate_again(released, cache, seed=0, precision=precision)
    assert valid == released.training["valid"]
    assert {**rows(tmp_path, "valid")[-1], **valid} == rows(tmp_path, "valid")[-1]
    other = "float32" if precision == "bfloat16" else "bfloat16"
    assert validate_again(released, cache, seed=0, precision=other) != valid

    learner = load_state(tmp_path / "state.pt").learner
    assert ("average" in learner) == (ema > 0)
    weights = Estimator(released.module, released.encoder).state_dict()
    assert_equal(weights, learner["average" if ema else "estimator"])
    if ema:
        assert all(not torch.equal(weights[name], raw) for name, raw in learner["estimator"].items())


def test_bfloat16_is_used_and_close_to_float32(cache: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        run(cache, tmp_path / precision, **AGAINST, precision=precision, log_every=1)
    pairs = list(zip(*(rows(tmp_path / precision, "train") for precision in ("float32", "bfloat16")), strict=True))
    for name in ("l1", "feature_matching", "discriminator_loss"):
        assert all(rough[name] == pytest.approx(exact[name], rel=0.02) for exact, rough in pairs)
        assert any(rough[name] != pytest.approx(exact[name], rel=1e-5) for exact, rough in pairs)


def stopped(cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: str) -> tuple[str, Learner]:
    """Run `recipe` in `folder`/stopped into its TrainingError: what that says, and the learner as it was left."""
    learners = caught_learners(monkeypatch)
    with pytest.raises(TrainingError) as caught:
        run(cache, folder / "stopped", checkpoint_steps=3, **RECIPES[recipe])
    monkeypatch.undo()
    return str(caught.value), learners[0]


def assert_stopped_at(
    step: int,
    learner: Learner,
    cache: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    *,
    parts: set[str] | None = None,
) -> None:
    """In memory it is what a run of `step` updates is, and on the disk nothing is infinite."""
    quiet = caught_learners(monkeypatch)
    run(cache, folder / "quiet", **{**RECIPES[recipe], "steps": step})
    left, expected = learner.state(), quiet[0].state()
    for part in parts or expected.keys():
        if part in expected:
            assert_equal(left[part], expected[part])
    saved = list(tensors_in(load_state(folder / "stopped" / "state.pt").learner))
    assert saved
    assert all(tensor.isfinite().all() for tensor in saved)


def assert_equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(tensors_in(a), tensors_in(b), strict=True))
    assert pairs
    assert all(torch.equal(one, other) for one, other in pairs)


def validate_again(trained: TrainedModule, cache: Path, *, seed: int, precision: Autocast) -> dict[str, float]:
    opened = open_cache(cache)
    num_frames = opened.spec.frames_in(TINY["window_seconds"])
    config = TrainConfig.model_validate(
        {**TINY, "cache": cache, "out": cache / "run", "seed": seed, "precision": precision}
    )
    learner = Learner(
        Estimator(trained.module, trained.encoder), None, config=config, task=trained.task,
        normalisation=trained.normalisation, mel=None, ranks=Ranks(0, 1, torch.device("cpu")), stopwatch=Stopwatch(),
    )  # fmt: skip
    windows = WindowLoader(opened, trained.task, split="valid", num_frames=num_frames, seed=seed)
    return validate(learner, windows, num_windows=TINY["valid_windows"])
