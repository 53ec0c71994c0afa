"""Every shipped configuration loads, and says how it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from reencoder_eval.config import AutoencoderEvalConfig, EvalConfig
from reencoder_pipeline.config import AutoencoderTrainConfig, CacheConfig, Config, load_config
from reencoder_trainer.config import TrainConfig

ROOT = Path(__file__).parents[1] / "configs"
KINDS: dict[str, type[Config]] = {
    "autoencoder": AutoencoderTrainConfig,
    "cache": CacheConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "eval/autoencoder": AutoencoderEvalConfig,
}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_config_loads_and_names_its_command(path: Path) -> None:
    kind = KINDS.get(f"{path.parent.name}/{path.stem}") or KINDS.get(path.parent.name) or KINDS[path.stem]
    load_config(path, kind)
    comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert "reencoder-" in comment or "make demo" in comment
