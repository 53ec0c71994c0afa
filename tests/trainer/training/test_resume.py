"""Resuming: after any interruption, of any recipe, the same command makes the run that nothing interrupted."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import reencoder_pipeline.training.loop as loop_module
import reencoder_trainer.training.run as run_module
from reencoder_pipeline.errors import CacheError, CheckpointError, ConfigError
from reencoder_pipeline.training.autocast import resolved
from reencoder_pipeline.training.state_file import write_state
from reencoder_trainer.config import TrainConfig
from tiny_cache import SPEC, write_cache
from training_run import (
    RECIPES,
    TINY,
    assert_same_run,
    at_step,
    crash,
    environment,
    load_state,
    rows,
    run,
    write_config,
)

BFLOAT16 = {**RECIPES["adversarial"], "precision": "bfloat16"}
LASTING = {**RECIPES, "bfloat16": BFLOAT16}
QUICK = ["l1", "adversarial", "variational"]
PATIENCE = 300.0  # seconds; for machines that are busy with something else
Unbroken = Callable[[str], Path]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("resume") / "cache")


@pytest.fixture(scope="module")
def unbroken(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """unbroken(recipe): the folder of its 20 steps. Not to be changed."""
    done: dict[str, Path] = {}

    def run_of(recipe: str) -> Path:
        if recipe not in done:
            out = tmp_path_factory.mktemp(recipe) / "run"
            run(cache, out, **LASTING[recipe])
            done[recipe] = out
        return done[recipe]

    return run_of


@pytest.mark.parametrize("recipe", LASTING)
def test_twenty_steps_are_ten_and_ten_more(recipe: str, cache: Path, unbroken: Unbroken, tmp_path: Path) -> None:
    run(cache, tmp_path, steps=10, **LASTING[recipe])
    assert load_state(tmp_path / "state.pt").pending, "10 is no multiple of log_every, so metrics travel in the state"
    run(cache, tmp_path, resume=True, **LASTING[recipe])
    assert_same_run(tmp_path, unbroken(recipe))


def test_what_is_said_to_be_the_same_run_can_differ(cache: Path, unbroken: Unbroken, tmp_path: Path) -> None:
    run(cache, tmp_path, **{**RECIPES["adversarial"], "discriminator": {"channels": 4, "lr": 0.00101}})
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path, unbroken("adversarial"))


@pytest.mark.parametrize("recipe", QUICK)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_resumes_to_the_same_bits(
    number: signal.Signals,
    recipe: str,
    cache: Path,
    unbroken: Unbroken,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = signal.getsignal(number)
    at_step(monkeypatch, 7, lambda _: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 7; to go on: reencoder-train .*config.yaml --resume"):
        run(cache, tmp_path, **RECIPES[recipe])
    monkeypatch.undo()
    assert signal.getsignal(number) is handler
    assert load_state(tmp_path / "state.pt").step == 7
    run(cache, tmp_path, resume=True, **RECIPES[recipe])
    assert_same_run(tmp_path, unbroken(recipe))


@pytest.mark.parametrize("recipe", QUICK)
@pytest.mark.parametrize("step", [1, 6, 14])
def test_a_crash_at_any_step_resumes_to_the_same_bits(
    step: int, recipe: str, cache: Path, unbroken: Unbroken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, step, crash)
    with pytest.raises(RuntimeError, match="power"):
        run(cache, tmp_path, checkpoint_steps=5, **RECIPES[recipe])
    monkeypatch.undo()
    run(cache, tmp_path, resume=True, **RECIPES[recipe])
    assert_same_run(tmp_path, unbroken(recipe))


@pytest.mark.parametrize("recipe", QUICK)
@pytest.mark.parametrize(
    "failing", [("write_state", 1), ("save_module", 1), ("write_state", 2), ("save_module", 2), ("save_module", 4)]
)
def test_a_crash_within_a_checkpoint_loses_nothing(
    failing: tuple[str, int],
    recipe: str,
    cache: Path,
    unbroken: Unbroken,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before and between the two files of the first of four checkpoints, of the second, and of the last."""
    victim, checkpoint = failing
    saves = []
    module = loop_module if victim == "write_state" else run_module
    original = getattr(module, victim)

    def crash_within(*arguments: Any, **settings: Any) -> None:
        saves.append(arguments)
        if len(saves) == checkpoint:
            crash()
        original(*arguments, **settings)

    monkeypatch.setattr(module, victim, crash_within)
    with pytest.raises(RuntimeError, match="power"):
        run(cache, tmp_path, checkpoint_steps=5, **RECIPES[recipe])
    monkeypatch.undo()
    saved = 5 * (checkpoint - (victim == "write_state"))
    assert (load_state(tmp_path / "state.pt").step if saved else 0) == saved
    assert (tmp_path / "module.safetensors").exists() == (checkpoint > 1)
    run(cache, tmp_path, resume=True, **RECIPES[recipe])
    assert_same_run(tmp_path, unbroken(recipe))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_run_resumes_to_the_same_bits(recipe: str, cache: Path, tmp_path: Path) -> None:
    """kill -9 from outside, somewhere in steps and checkpoints; then the same command."""
    changes: dict[str, Any] = {
        "steps": 100_000, "valid_every": 20, "checkpoint_steps": 3, "schedule": "cosine", **RECIPES[recipe]
    }  # fmt: skip
    config = write_config(tmp_path / "config.yaml", cache, tmp_path / "run", **changes)
    line = [sys.executable, "-m", "reencoder_trainer.cli", str(config), "--resume"]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not (tmp_path / "run" / "module.safetensors").exists():
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)
    time.sleep(random.Random(recipe).uniform(0.1, 0.4))
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    step = load_state(tmp_path / "run" / "state.pt").step
    assert 0 < step < changes["steps"]
    # All steps would take long, and fewer would be another cosine: compare both runs where both are interrupted.
    for folder in ("run", "unbroken"):
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, step + 7, lambda _: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                run(cache, tmp_path / folder, resume=True, **changes)
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")


def test_a_finished_run_has_nothing_to_do(cache: Path, unbroken: Unbroken, capfd: pytest.CaptureFixture[str]) -> None:
    folder = unbroken("l1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(cache, folder, resume=True).steps == 20
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "nothing to do" in capfd.readouterr().err


def test_a_finished_run_can_be_prolonged(cache: Path, unbroken: Unbroken, tmp_path: Path) -> None:
    run(cache, tmp_path, steps=8)
    run(cache, tmp_path, steps=13, resume=True, checkpoint_steps=2, log_every=3, threads=1)
    assert load_state(tmp_path / "state.pt").step == 13
    run(cache, tmp_path, steps=20, resume=True)
    # Another log_every made other rows for a while; what was learnt is the same.
    assert (tmp_path / "module.safetensors").read_bytes() == (unbroken("l1") / "module.safetensors").read_bytes()
    assert rows(tmp_path, "valid")[-1] == rows(unbroken("l1"), "valid")[-1]


def test_a_run_is_not_overwritten(cache: Path, unbroken: Unbroken) -> None:
    before = (unbroken("l1") / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="add --resume, or give another out"):
        run(cache, unbroken("l1"))
    assert (unbroken("l1") / "metrics.jsonl").read_bytes() == before


def test_a_resumed_run_keeps_its_settings(cache: Path, unbroken: Unbroken) -> None:
    with pytest.raises(ConfigError) as caught:
        run(cache, unbroken("l1"), resume=True, lr=0.02, seed=3, log_every=7)
    assert "lr: 0.01 then, 0.02 now; seed: 0 then, 3 now" in str(caught.value)
    assert "log_every" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("ema", {"ema": 0.5}),
        ("losses", {"losses": {"mel": 1.0}, "autoencoder": "training_run:load_linear"}),
        ("discriminator", {"discriminator": {"channels": 5}}),
        ("condition", {"condition": {"channels": 3}}),
    ],
)
def test_a_resumed_run_keeps_its_recipe(setting: str, changes: dict[str, Any], cache: Path, unbroken: Unbroken) -> None:
    with pytest.raises(ConfigError, match=f"cannot change when a run is resumed\n *found: {setting}: "):
        run(cache, unbroken("l1"), resume=True, **changes)


def test_a_resumed_run_keeps_its_cache(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", steps=1)
    moved = tmp_path / "moved"
    moved.symlink_to(cache)
    run(moved, tmp_path / "run", steps=2, resume=True)
    other = write_cache(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="another cache"):
        run(other, tmp_path / "run", resume=True)
    foreign = write_cache(tmp_path / "foreign", spec=replace(SPEC, weights="1" * 64))
    with pytest.raises(CacheError, match="weights: '0000"):
        run(foreign, tmp_path / "run", resume=True)


def test_a_damaged_state_is_an_error(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path, steps=2)
    content = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        run(cache, tmp_path, resume=True)


@pytest.mark.parametrize("changes", [{"width": 8}, {"ema": 0.9}])
def test_a_state_of_another_recipe_is_an_error(changes: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    """Its values show it, though its settings are those of the configuration."""
    run(cache, tmp_path, steps=2)
    config, path = tmp_path / "config.yaml", tmp_path / "state.pt"
    settings = {**yaml.safe_load(config.read_text()), **changes}
    config.write_text(yaml.safe_dump(settings))
    write_state(path, vars(load_state(path)), kind="module", settings=settings)
    with pytest.raises(CheckpointError, match="of another recipe"):
        run(cache, tmp_path, resume=True, **changes)


SETTINGS = [{"lr": 0.1}, {"seed": 9}, {"batch_size": 8}, {"losses": {"level": 0.5}}, {"steps": 30, "width": 8}]


@pytest.mark.parametrize("changes", SETTINGS, ids=[next(reversed(changes)) for changes in SETTINGS])
@pytest.mark.parametrize("config", ["gone", "changed"])
def test_the_settings_of_the_state_must_agree(
    config: str, changes: dict[str, Any], cache: Path, unbroken: Unbroken, tmp_path: Path
) -> None:
    """Without config.yaml, and with one that has been changed to the settings asked for now."""
    out = Path(shutil.copytree(unbroken("l1"), tmp_path / "run"))
    (out / "config.yaml").unlink()
    if config == "changed":
        settings = TrainConfig(cache=cache, out=out, **{**TINY, **changes}).model_dump(mode="json")
        settings["precision"] = str(resolved("auto", torch.device("cpu")))
        (out / "config.yaml").write_text(yaml.safe_dump(settings))
    before = files(out)
    with pytest.raises(ConfigError, match=r"state\.pt: these settings cannot change") as caught:
        run(cache, out, resume=True, **changes)
    assert files(out) == before
    assert next(reversed(changes)) + ": " in str(caught.value)
    assert ("config.yaml, which is gone" in str(caught.value)) == (config == "gone")


def test_a_run_without_its_config_goes_on_under_its_settings(cache: Path, unbroken: Unbroken, tmp_path: Path) -> None:
    run(cache, tmp_path, steps=10)
    settings = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").unlink()
    run(cache, tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken("l1"))
    assert (tmp_path / "config.yaml").read_text() == settings.replace("steps: 10\n", "steps: 20\n")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_setting_younger_than_the_run_has_its_default_there(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path / "run", steps=2)
    file = tmp_path / "run" / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    assert settings.pop("normalisation") == "own"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="normalisation: 'own' then, 'shared' now"):
        run(cache, tmp_path / "run", steps=4, resume=True, normalisation="shared")
    run(cache, tmp_path / "run", steps=4, resume=True)
