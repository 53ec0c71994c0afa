"""One training: what it leaves, what it says while it runs, and what it refuses to begin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from command_line import reencoder_train, run_apart
from reencoder_pipeline.config import load_config
from reencoder_pipeline.errors import AutoencoderError, CacheError, ConfigError
from reencoder_pipeline.training.autocast import resolved
from reencoder_pipeline.training.metrics_log import MetricsLog
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.module.normalisation import Scaling
from reencoder_trainer.trained_module import load_module
from reencoder_trainer.training.learner import Learner, stacked
from reencoder_trainer.training.train import TrainedRun
from tiny_cache import SPEC, write_cache
from training_run import RECIPES, TINY, LinearAutoencoder, at_step, crash, rows, run, write_config

LEFT = {"config.yaml", "metrics.jsonl", "module.safetensors", "state.pt"}
TERMS = {
    "l1": {"l1", "grad_norm", "lr"},
    "adversarial": {"l1", "loss", "grad_norm", "lr", "adversarial", "feature_matching"}
    | {f"discriminator_{name}" for name in ("loss", "grad_norm", "lr", "target_score", "estimate_score")},
    "variational": {"l1", "loss", "grad_norm", "lr", "kl"},
    "mel": {"l1", "loss", "grad_norm", "lr", "mel"},
}
SHARES = ("data_share", "compute_share", "optimizer_share", "rest_share")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("train") / "cache")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_leaves_what_it_promises(recipe: str, cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path, **RECIPES[recipe])
    assert {path.name for path in tmp_path.iterdir()} == LEFT
    metrics = [row for row in rows(tmp_path) if row["kind"] != "warning"]
    assert [(row["kind"], row["step"]) for row in metrics] == [
        ("train", 4), ("valid", 5), ("train", 8), ("valid", 10), ("train", 12),
        ("valid", 15), ("train", 16), ("train", 20), ("valid", 20),
    ]  # fmt: skip
    assert all(row.keys() == {"kind", "step", *TERMS[recipe]} for row in metrics if row["kind"] == "train")
    condition = {"kl", "l1_random", "level_random"} if recipe == "variational" else set()
    references = {"l1", "l1_no_module", "l1_channel_means", "level", "level_no_module", *condition}
    assert all(row.keys() == {"kind", "step", *references} for row in metrics if row["kind"] == "valid")
    config = load_config(tmp_path / "config.yaml", TrainConfig)
    precision = resolved("auto", torch.device("cpu"))  # what this processor multiplies
    assert config == TrainConfig(cache=cache, out=tmp_path, precision=precision, **{**TINY, **RECIPES[recipe]})

    trained = load_module(tmp_path / "module.safetensors")
    task = "m2s" if recipe == "variational" else "bwe"
    assert (trained.spec, trained.task.name, trained.training["steps"]) == (SPEC, task, 20)
    assert (trained.encoder is not None) == (recipe == "variational")
    assert trained.training["valid"] == {k: v for k, v in metrics[-1].items() if k not in ("kind", "step")}


def test_the_loss_is_the_weighted_sum_of_its_terms(cache: Path, tmp_path: Path) -> None:
    weights = {
        "reconstruction": 3.0,
        "adversarial": 0.5,
        "feature_matching": 2.0,
        "mel": 0.25,
        "kl": 0.125,
        "level": 0.5,
    }
    recipe: dict[str, Any] = {name: value for one in RECIPES.values() for name, value in one.items()}
    run(cache, tmp_path, **{**recipe, "losses": weights, "log_every": 1, "steps": 8})
    named = {("l1" if name == "reconstruction" else name): weight for name, weight in weights.items()}
    for row in rows(tmp_path, "train"):
        assert row["loss"] == pytest.approx(sum(weight * row[name] for name, weight in named.items()), rel=1e-5)
    assert row["kl"] > 0


def test_the_kl_grows_from_nothing_where_it_is_told_to(cache: Path, tmp_path: Path) -> None:
    condition = {"channels": 3, "blocks": 1, "kl_warmup_steps": 4}
    run(cache, tmp_path, task="m2s", condition=condition, losses={"kl": 0.5}, log_every=1, steps=8, lr=1e-4)
    shares = [(row["loss"] - 10 * row["l1"]) / row["kl"] / 0.5 for row in rows(tmp_path, "train")]
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"losses": {"adversarial": 0.5}, "window_seconds": 0.4}, ConfigError, "at least 21 frames, 0.49 s"),
        ({"losses": {"feature_matching": 1}, "window_seconds": 0.4}, ConfigError, "at least 21 frames, 0.49 s"),
        ({"window_seconds": 60.0}, CacheError, "none as long as a window"),
        ({"losses": {"mel": 1.0}, "autoencoder": "hous"}, AutoencoderError, "did you mean house"),
    ],
)
def test_what_cannot_be_trained_leaves_no_run_behind(
    changes: dict[str, Any], error: type[Exception], message: str, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(cache, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_latents_of_another_autoencoder_than_the_mel_loss_decodes_leave_no_run_behind(tmp_path: Path) -> None:
    foreign = write_cache(tmp_path / "cache", spec=replace(SPEC, weights="1" * 64))
    with pytest.raises(CacheError, match="weights: '1111"):
        run(foreign, tmp_path / "run", **RECIPES["mel"])
    assert not (tmp_path / "run").exists()


def test_the_shortest_window_that_a_discriminator_takes(cache: Path, tmp_path: Path) -> None:
    seconds = float(21 / SPEC.frame_rate)
    run(cache, tmp_path, **RECIPES["adversarial"], window_seconds=seconds, valid_every=0)
    assert len(rows(tmp_path, "train")) == 5


def test_a_run_folder_that_cannot_be_made_is_an_error(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the output folder is a file"):
        run(cache, tmp_path / "file")


def test_a_cache_without_valid_tracks_trains_without_validation(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", valid_frames=())
    with pytest.raises(CacheError, match="valid split"):
        run(cache, tmp_path / "run")
    assert run(cache, tmp_path / "run", steps=2, valid_every=0).valid == {}


def test_rows_say_where_the_time_went(cache: Path, tmp_path: Path) -> None:
    run(cache, tmp_path, **RECIPES["adversarial"])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["seconds"] > 0
        assert line["steps_per_second"] > 0
        if line["kind"] == "train":
            assert sum(line[name] for name in SHARES) == pytest.approx(1, abs=1e-4)
            assert all(0 < line[name] < 1 for name in SHARES)
    assert all(name not in line for line in lines if line["kind"] == "valid" for name in SHARES)
    last = next(line for line in reversed(lines) if line["kind"] == "train")
    assert last["compute_share"] > max(last["data_share"], last["optimizer_share"])


def test_tensorboard_holds_the_rows_once_after_a_resume_too(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {**RECIPES["adversarial"], "checkpoint_steps": 5, "tensorboard": True}
    at_step(monkeypatch, 14, crash)  # after the row of step 12, which the state of step 10 does not know
    with pytest.raises(RuntimeError, match="power"):
        run(cache, tmp_path, **changes)
    monkeypatch.undo()
    run(cache, tmp_path, resume=True, **changes)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for kind in ("train", "valid"):
        for name in rows(tmp_path, kind)[0].keys() - {"kind", "step"}:
            logged = [(event.step, round(event.value, 4)) for event in events.Scalars(f"{kind}/{name}")]
            assert logged == [(row["step"], round(row[name], 4)) for row in rows(tmp_path, kind)], name
    times = {tag for tag in events.Tags()["scalars"] if "_time/" in tag}
    assert times == {
        *(f"{kind}_time/{name}" for kind in ("train", "valid") for name in ("seconds", "steps_per_second")),
        *(f"train_time/{name}" for name in SHARES),
    }


def test_rows_after_the_restored_step_and_torn_ones_are_cut(tmp_path: Path) -> None:
    whole = [json.dumps({"kind": "train", "step": step}) + "\n" for step in (5, 10, 15)]
    (tmp_path / "metrics.jsonl").write_text("".join(whole) + '{"kind": "tr')
    for step, kept in ((20, 3), (10, 2), (4, 0)):
        with MetricsLog(tmp_path, step=step, log_every=5):
            pass
        assert (tmp_path / "metrics.jsonl").read_text() == "".join(whole[:kept])


def test_a_synced_log_is_all_on_the_disk(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, step=0, log_every=5) as log:
        log.valid(5, {"l1": 0.5})
        log.warn(5, None)
        log.warn(5, "look out")
        log.sync()
        assert [row["kind"] for row in rows(tmp_path)] == ["valid", "warning"]


def test_configuration_errors_are_listed_together_with_exit_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("cache: c\nout: o\nstep: 3\nbatch_size: 0\nsize: L\n")
    done = reencoder_train(tmp_path / "bad.yaml", "--set", "lr=fast")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    for text in ("4 problem(s)", "step: unknown setting; did you mean steps?", "batch_size: ", "size: ", "lr: "):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        (["output=difference"], ["1 problem(s)", "difference is for m2s"]),
        (["output=panning"], ["1 problem(s)", "panning is for m2s"]),
        (["response_frames=4"], ["1 problem(s)", "odd"]),
        (["output=difference", "response_frames=4"], ["2 problem(s)", "difference is for m2s", "odd"]),
        (["swap_left_right=true"], ["1 problem(s)", "true is for m2s"]),
        (["condition={channels: 3, levels: true}"], ["1 problem(s)", "levels is for m2s"]),
        (["output=difference", "lr=-1"], ["2 problem(s)", "difference is for m2s", "lr: "]),
    ],
)
def test_settings_that_cannot_go_together_are_errors_with_exit_2(
    settings: list[str], texts: list[str], cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(f"cache: {cache}\nout: {tmp_path / 'run'}\n")
    done = reencoder_train(tmp_path / "config.yaml", *(part for text in settings for part in ("--set", text)))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_difference_and_an_odd_response_are_fine_where_they_belong(cache: Path, tmp_path: Path) -> None:
    done: TrainedRun = run(cache, tmp_path, task="m2s", output="difference", response_frames=5)
    assert done.valid["l1"] == pytest.approx(done.valid["l1_no_module"], abs=0.3)  # it starts at the input


def test_left_and_right_are_swapped_in_half_of_the_windows_and_in_no_validation(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, swaps = Learner.windows, []

    def windows(learner: Learner, batch: Mapping[str, Tensor], *, swapped: Tensor | None = None) -> Any:
        inputs, targets = plain(learner, batch, swapped=swapped)
        if swapped is not None:
            swaps.append(swapped)
            left, right = targets.chunk(2, dim=1)
            expected = [stacked(batch, [name], targets.device).float() for name in ("left", "right")]
            for item, is_swapped in enumerate(swapped.tolist()):
                pair = (right, left) if is_swapped else (left, right)
                assert all(torch.allclose(a[item], b[item]) for a, b in zip(pair, expected, strict=True))
        return inputs, targets

    monkeypatch.setattr(Learner, "windows", windows)
    monkeypatch.setattr(Scaling, "apply", lambda scaling, latents: latents.float())
    run(cache, tmp_path, task="m2s", swap_left_right=True)
    assert len(swaps) == TINY["steps"]
    assert 20 < torch.cat(swaps).sum().item() < 60  # of 80
    assert len({tuple(swap.tolist()) for swap in swaps}) > 5


def test_the_mel_loss_decodes_so_many_windows_as_asked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, sizes = LinearAutoencoder.decode, []

    def counted(autoencoder: LinearAutoencoder, latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        return decode(autoencoder, latents)

    monkeypatch.setattr(LinearAutoencoder, "decode", counted)
    run(cache, tmp_path, **{**RECIPES["mel"], "batch_size": 4, "mel_windows": 3, "steps": 3, "valid_every": 0})
    assert sizes == [1, *[3, 3] * 3]  # the probe; reference and estimate of every step


def test_print_config_shows_every_setting_and_can_be_read_back(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("cache: c\nout: o\nlosses: {adversarial: 0.5}\n")
    done = reencoder_train(tmp_path / "config.yaml", "--set", "steps=7", "--print-config")
    assert done.returncode == 0
    (tmp_path / "printed.yaml").write_text(done.stdout)
    printed = load_config(tmp_path / "printed.yaml", TrainConfig)
    assert printed == load_config(tmp_path / "config.yaml", TrainConfig, ["steps=7"])
    assert all(f"{name}:" in done.stdout for name in TrainConfig.model_fields)


def test_the_command_trains_and_prints_the_module(cache: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", cache, tmp_path / "run", **RECIPES["variational"])
    done = run_apart("reencoder-train", config)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'run' / 'module.safetensors'}\n"), done.stderr
