"""The listing of runs: what it says of finished, begun, foreign and torn ones, and the command's two spellings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from command_line import reencoder_train
from reencoder_pipeline.errors import ConfigError
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.run_list import list_runs, recipe
from written_runs import write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    valid = {"kind": "valid", "step": 20, "l1": 0.2, "l1_no_module": 0.5, "l1_channel_means": 0.6, "seconds": 1.0}
    write_run(tmp_path / "done", [{"kind": "train", "step": 20, "l1": 0.1, "steps_per_second": 2.5}, valid])
    warning = {"kind": "warning", "step": 7, "text": "the discriminator wins"}
    write_run(tmp_path / "sub" / "begun", [{"kind": "train", "step": 5, "l1": 0.4}, warning], tail='{"kind": "tr')
    write_run(tmp_path / "empty", [])
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.yaml").write_text("pcm: x\nsource: y\n")
    (tmp_path / "another" / "metrics.jsonl").write_text("")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("cache: c\nout: o\nresidual: true\n")
    (tmp_path / "old" / "metrics.jsonl").write_text("")
    return tmp_path


def test_each_run_is_summed_up(folder: Path) -> None:
    found, unreadable = list_runs(folder)
    runs = {run.name: run for run in found}
    assert runs.keys() == {"done", "sub/begun", "empty"}
    assert (runs["done"].step, runs["done"].is_finished, runs["done"].steps_per_second) == (20, True, 2.5)
    assert runs["done"].valid == {"l1": 0.2, "l1_no_module": 0.5, "l1_channel_means": 0.6}
    begun = runs["sub/begun"]
    assert (begun.step, begun.is_finished, begun.valid) == (7, False, {})
    assert begun.warnings == ("the discriminator wins",)
    assert (runs["empty"].step, runs["empty"].valid) == (0, {})
    assert len(unreadable) == 1
    assert "old" in unreadable[0], "of another version; the autoencoder's run is passed over"


def test_a_recipe_is_a_few_words() -> None:
    paper = TrainConfig.model_validate(yaml.safe_load((ROOT / "configs/train/bwe_m.yaml").read_text()))
    assert recipe(paper) == "bwe M, L1 + discriminator"
    stereo = TrainConfig.model_validate(yaml.safe_load((ROOT / "configs/train/m2s_s_cpu.yaml").read_text()))
    assert recipe(stereo).startswith("m2s S, L1 + condition, ")


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder of runs does not exist"):
        list_runs(tmp_path / "absent")


def test_the_command_lists_them_for_people_and_for_programs(folder: Path) -> None:
    table = reencoder_train("runs", str(folder))
    assert table.returncode == 3, "one of the folders could not be read"
    assert "not readable: " in table.stderr
    line = next(line for line in table.stdout.splitlines() if line.startswith("done"))
    assert line.split()[1:9] == ["bwe", "S,", "L1", "20", "0.2000", "0.5000", "0.6000", "2.50"]
    assert line.rstrip().endswith("s ago")
    assert "5 of 20" not in table.stdout
    assert "7 of 20" in table.stdout
    rows = [json.loads(line) for line in reencoder_train("runs", str(folder), "--json").stdout.splitlines()]
    assert {row["name"] for row in rows} == {"done", "sub/begun", "empty"}


def test_train_may_be_left_out() -> None:
    for line in (
        ["configs/train/bwe_s.yaml"],
        ["train", "configs/train/bwe_s.yaml"],
        ["--set", "seed=0", "configs/train/bwe_s.yaml"],
    ):
        done = reencoder_train(*line, "--print-config")
        assert yaml.safe_load(done.stdout)["size"] == "S"
    assert "no such configuration file" in reencoder_train("rums").stderr
