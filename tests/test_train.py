"""Training: it learns, it resumes to the same bits after any interruption, and it refuses what would mix runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

import reencoder_trainer.train as train_module
from reencoder_pipeline.config import load_config
from reencoder_pipeline.errors import CacheError, CheckpointError, ConfigError, TrainingError
from reencoder_pipeline.journal import TIMING_FIELDS, Journal, Progress
from reencoder_trainer.checkpoint import load_state, state_digest
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.optimisation import learning_rate
from reencoder_trainer.train import TrainedRun, train
from reencoder_trainer.trained_module import load_module
from reencoder_trainer.windows import WindowLoader
from tiny_cache import SPEC, write_cache

TINY = {
    "blocks": 1, "width": 16, "batch_size": 4, "window_seconds": 0.7, "steps": 20, "warmup_steps": 4, "lr": 0.01,
    "valid_every": 5, "valid_windows": 8, "log_every": 4, "tensorboard": False, "device": "cpu", "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("train") / "cache")


def run(cache: Path, out: Path, *, resume: bool = False, **changes: Any) -> TrainedRun:
    return train(TrainConfig(cache=cache, out=out, **{**TINY, **changes}), resume=resume)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics but for what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING_FIELDS} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: module, optimiser, metrics."""
    assert (a / "module.safetensors").read_bytes() == (b / "module.safetensors").read_bytes()
    states = [load_state(folder / "state.pt") for folder in (a, b)]
    # Digests of every weight, every moment and everything else a state holds.
    assert state_digest(states[0]) == state_digest(states[1])
    assert rows(a) == rows(b)


@pytest.fixture(scope="module")
def unbroken(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    run(cache, out)
    return out


def test_a_run_leaves_what_it_promises(cache: Path, unbroken: Path) -> None:
    assert {path.name for path in unbroken.iterdir()} == {
        "config.yaml", "metrics.jsonl", "module.safetensors", "state.pt"
    }  # fmt: skip
    assert [(row["kind"], row["step"]) for row in rows(unbroken)] == [
        ("train", 4), ("valid", 5), ("train", 8), ("valid", 10), ("train", 12),
        ("valid", 15), ("train", 16), ("train", 20), ("valid", 20),
    ]  # fmt: skip
    config = load_config(unbroken / "config.yaml", TrainConfig)
    assert config == TrainConfig(cache=cache, out=unbroken, **TINY)
    trained = load_module(unbroken / "module.safetensors")
    assert (trained.spec, trained.task.name, trained.training["steps"]) == (SPEC, "bwe", 20)
    assert trained.training["valid"] == {k: v for k, v in rows(unbroken)[-1].items() if k not in ("kind", "step")}


@pytest.mark.parametrize(("task", "output"), [("bwe", "residual"), ("m2s", "direct")])
def test_it_learns_more_than_predictions_without_a_module(task: str, output: str, cache: Path, tmp_path: Path) -> None:
    valid = run(cache, tmp_path, steps=150, width=32, task=task, output=output, schedule="cosine").valid
    assert valid["l1"] < 0.7 * valid["l1_channel_means"]
    if task == "bwe":  # in this cache the m2s targets equal the input
        assert valid["l1"] < 0.7 * valid["l1_no_module"]
    else:
        assert valid["l1_no_module"] < 0.05


def test_twenty_steps_are_ten_and_ten_more(cache: Path, unbroken: Path, tmp_path: Path) -> None:
    run(cache, tmp_path, steps=10)
    assert load_state(tmp_path / "state.pt").pending, "10 is no multiple of log_every, so metrics travel in the state"
    run(cache, tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_resumes_to_the_same_bits(
    number: signal.Signals, cache: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(number)
    at_step(monkeypatch, 7, lambda _: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 7; to go on: reencoder-train .*config.yaml --resume"):
        run(cache, tmp_path)
    monkeypatch.undo()
    assert signal.getsignal(number) is handler
    assert load_state(tmp_path / "state.pt").step == 7
    run(cache, tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize("step", [1, 6, 14])
def test_a_crash_at_any_step_resumes_to_the_same_bits(
    step: int, cache: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, step, crash)
    with pytest.raises(RuntimeError, match="power"):
        run(cache, tmp_path, checkpoint_steps=5)
    monkeypatch.undo()
    run(cache, tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize("failing", [("save_state", 2), ("save_module", 2), ("save_module", 4)])
def test_a_crash_within_a_checkpoint_loses_nothing(
    failing: tuple[str, int], cache: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second checkpoint of four, and between the two files of the last one."""
    victim, checkpoint = failing
    saves = []
    original = getattr(train_module, victim)

    def crash_within(*arguments: Any) -> None:
        saves.append(arguments)
        if len(saves) == checkpoint:
            crash()
        original(*arguments)

    monkeypatch.setattr(train_module, victim, crash_within)
    with pytest.raises(RuntimeError, match="power"):
        run(cache, tmp_path, checkpoint_steps=5)
    monkeypatch.undo()
    run(cache, tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken)


def test_a_killed_run_resumes_to_the_same_bits(cache: Path, tmp_path: Path) -> None:
    """kill -9 from outside, somewhere in steps and checkpoints; then the same command."""
    changes: dict[str, Any] = {"steps": 4000, "valid_every": 500, "checkpoint_steps": 20, "schedule": "cosine"}
    config = TrainConfig(cache=cache, out=tmp_path / "run", **{**TINY, **changes})
    (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    line = [sys.executable, "-m", "reencoder_trainer.cli", str(tmp_path / "config.yaml"), "--resume"]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and last_step(tmp_path / "run") < 100:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    step = load_state(tmp_path / "run" / "state.pt").step
    assert 0 < step < changes["steps"]
    # All 4,000 steps would take long, and fewer would be another cosine: compare both runs where both are interrupted.
    for folder in ("run", "unbroken"):
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, step + 30, lambda _: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                run(cache, tmp_path / folder, resume=True, **changes)
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")


def test_a_loss_that_is_not_finite_stops_before_the_update(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 8, lambda batch: batch["low_band"].fill_(float("nan")))
    with pytest.raises(TrainingError) as caught:
        run(cache, tmp_path, checkpoint_steps=3)
    text = str(caught.value)
    assert f"step 8, last good checkpoint {tmp_path / 'state.pt'} at step 6" in text
    assert "not finite in: low_band" in text
    assert all(
        torch.isfinite(tensor).all() for tensor in load_state(tmp_path / "state.pt").learner["estimator"].values()
    )


def test_a_finished_run_has_nothing_to_do(cache: Path, unbroken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in unbroken.iterdir()}
    assert run(cache, unbroken, resume=True).steps == 20
    assert {path.name: path.read_bytes() for path in unbroken.iterdir()} == before
    assert "nothing to do" in capfd.readouterr().err


def test_a_run_is_not_overwritten(cache: Path, unbroken: Path) -> None:
    before = (unbroken / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="add --resume, or give another out"):
        run(cache, unbroken)
    assert (unbroken / "metrics.jsonl").read_bytes() == before


def test_a_resumed_run_keeps_its_settings(cache: Path, unbroken: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(cache, unbroken, resume=True, lr=0.02, seed=3, log_every=7)
    assert "lr: 0.01 in the run, 0.02 now; seed: 0 in the run, 3 now" in str(caught.value)
    assert "log_every" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"losses": {"adversarial": 0.5}, "window_seconds": 0.4}, ConfigError, "at least 21 frames, 0.49 s"),
        ({"window_seconds": 60.0}, CacheError, "none as long as a window"),
    ],
)
def test_what_cannot_be_trained_leaves_no_run_behind(
    changes: dict[str, Any], error: type[Exception], message: str, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(cache, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_made_is_an_error(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        run(cache, tmp_path / "file")


def test_a_cache_without_valid_tracks_trains_without_validation(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", valid_frames=())
    with pytest.raises(CacheError, match="valid split"):
        run(cache, tmp_path / "run")
    assert run(cache, tmp_path / "run", steps=2, valid_every=0).valid == {}


def test_several_processes_train_what_one_does(cache: Path, unbroken: Path, tmp_path: Path) -> None:
    config = TrainConfig(cache=cache, out=tmp_path / "run", **TINY)
    (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "reencoder_trainer.cli", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    many, one = (load_module(folder / "module.safetensors") for folder in (tmp_path / "run", unbroken))
    # Gradients are summed in another order, and AdamW divides small ones by their own size: what is 1e-8 apart in the
    # first rows is 0.001 apart after 20 steps of 0.01.
    for here, there in zip(rows(tmp_path / "run"), rows(unbroken), strict=True):
        assert here["l1"] == pytest.approx(there["l1"], rel=1e-4 if here["step"] <= 10 else 1e-2)
    for name, tensor in one.module.state_dict().items():
        torch.testing.assert_close(many.module.state_dict()[name], tensor, rtol=0, atol=0.005)


def test_tensorboard_stands_beside_the_rows(cache: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(cache, tmp_path, steps=8, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {(event.step, round(event.value, 5)) for event in events.Scalars("train/l1")}
    assert logged == {(row["step"], round(row["l1"], 5)) for row in rows(tmp_path) if row["kind"] == "train"}


def test_learning_rate() -> None:
    def rate(step: int, schedule: Any) -> float:
        return learning_rate(step, peak=1.0, warmup_steps=10, schedule=schedule, steps=100)

    assert [rate(step, "constant") for step in (0, 4, 9, 50, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert rate(50, "cosine") == pytest.approx(0.5)
    assert 0 < rate(99, "cosine") < 0.001
    assert learning_rate(0, peak=1.0, warmup_steps=0, schedule="constant", steps=100) == 1.0


def test_rows_after_the_restored_step_and_torn_ones_are_cut(tmp_path: Path) -> None:
    whole = [json.dumps({"kind": "train", "step": step}) + "\n" for step in (5, 10, 15)]
    (tmp_path / "metrics.jsonl").write_text("".join(whole) + '{"kind": "tr')
    for step, kept in ((20, 3), (10, 2), (4, 0)):
        with Journal(tmp_path, step=step, steps=30, log_every=5, pending=[], tensorboard=False):
            pass
        assert (tmp_path / "metrics.jsonl").read_text() == "".join(whole[:kept])


def test_progress_says_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("reencoder_pipeline.journal.time.monotonic", lambda: now[0])
    stream = StringIO()
    progress = Progress(1000, 2000, stream=stream)
    for step, seconds in ((1010, 5.0), (1100, 50.0), (1110, 55.0), (1200, 100.0)):
        now[0] = seconds
        progress.update(step, "l1 0.5")
    assert stream.getvalue().splitlines() == [
        "step 1100/2000  l1 0.5  2.00 steps/s  7 min 30 s left",
        "step 1200/2000  l1 0.5  2.00 steps/s  6 min 40 s left",
    ]


def test_configuration_errors_are_listed_together_with_exit_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("cache: c\nout: o\nstep: 3\nbatch_size: 0\nsize: L\n")
    done = command(str(tmp_path / "bad.yaml"), "--set", "lr=fast")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    for text in ("4 problem(s)", "step: unknown setting; did you mean steps?", "batch_size: ", "size: ", "lr: "):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_print_config_shows_every_setting_and_can_be_read_back(tmp_path: Path) -> None:
    done = command("configs/train/bwe_s_cpu.yaml", "--set", "steps=7", "--print-config")
    assert done.returncode == 0
    (tmp_path / "printed.yaml").write_text(done.stdout)
    printed = load_config(tmp_path / "printed.yaml", TrainConfig)
    assert printed == load_config(Path("configs/train/bwe_s_cpu.yaml"), TrainConfig, ["steps=7"])


def test_the_papers_settings_are_the_defaults() -> None:
    config = load_config(Path("configs/train/bwe_s.yaml"), TrainConfig)
    assert config == TrainConfig.model_validate({"cache": config.cache, "out": config.out})
    assert (config.batch_size, config.steps, config.lr, config.warmup_steps) == (256, 250_000, 5e-4, 1_000)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "reencoder_trainer.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Do something with the training batch of update `step` (from 1), once its windows are read."""
    original = WindowLoader.batch

    def batch(self: WindowLoader, index: int, **slicing: Any) -> dict[str, torch.Tensor]:
        windows = original(self, index, **slicing)
        if index == step - 1 and self.split == "train":
            act(windows)
        return windows

    monkeypatch.setattr(WindowLoader, "batch", batch)


def crash(_: object = None) -> None:
    raise RuntimeError("the power is gone")


def last_step(folder: Path) -> int:
    if not (folder / "metrics.jsonl").exists():
        return 0
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0  # the last one may be torn
