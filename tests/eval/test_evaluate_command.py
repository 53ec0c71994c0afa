"""`reencoder-eval` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reencoder_eval.cli.evaluate import app
from reencoder_eval.config import EvalConfig
from reencoder_eval.evaluation_folder import (
    FAILURES,
    REPORT,
    read_rows,
)
from reencoder_pipeline.config import load_config
from reencoder_pipeline.errors import ConfigError


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
    with pytest.raises(ConfigError, match="must differ; repeated: S"):
        load_config(config, EvalConfig)
