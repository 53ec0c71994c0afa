"""Every shipped configuration loads, says how it is run, and the twins for two cores train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reencoder_eval.config import AutoencoderEvalConfig, BaselineTrainConfig, EvalConfig
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.cache.formats.zarr_shards import data_file
from reencoder_pipeline.config import CacheConfig, Config, load_config
from reencoder_trainer.config import TrainConfig
from tiny_cache import write_cache

ROOT = Path(__file__).parents[2] / "configs"
KINDS: dict[str, type[Config]] = {
    "autoencoder": AutoencoderTrainConfig,
    "cache": CacheConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "eval/autoencoder": AutoencoderEvalConfig,
    "baseline": BaselineTrainConfig,
}
LENGTHS = {"train": (400, 300, 200), "valid": (200,)}  # in frames; a window of 4 s has 172
PAPER = ["bwe_s", "bwe_m", "bwe_m_l1", "bwe_m_l1_mel", "m2s_m"]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_config_loads_and_names_its_command(path: Path) -> None:
    kind = KINDS.get(f"{path.parent.name}/{path.stem}") or KINDS.get(path.parent.name) or KINDS[path.stem]
    load_config(path, kind)
    comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert "reencoder-" in comment or "make demo" in comment
    if path.parent.name in ("train", "autoencoder", "baseline"):
        assert "Time: " in comment
        assert "Result: " in comment
        assert "Time: - " not in comment, "measured, or said why not"


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_rows_are_literal(name: str) -> None:
    """Sections 3.1.2 and 3.2, value by value; what the paper does not say stays at its default."""
    config = load_config(ROOT / "train" / f"{name}.yaml", TrainConfig)
    assert (config.batch_size, config.steps, config.precision) == (256, 250_000, "bfloat16")
    assert (config.lr, config.warmup_steps, config.weight_decay, config.schedule) == (5e-4, 1_000, 1e-4, "constant")
    assert (config.output, config.ema, config.response_frames, config.max_grad_norm) == ("direct", 0.0, None, None)
    assert config.window_seconds == (4.0 if name == "m2s_m" else 1.4)
    assert config.size == ("S" if name == "bwe_s" else "M")
    assert config.losses.reconstruction == 10.0
    if name in ("bwe_s", "bwe_m"):
        assert (config.losses.adversarial, config.losses.feature_matching) == (0.5, 1.0)
        assert (config.discriminator.channels, config.discriminator.lr) == (256, 1e-4)
        assert config.discriminator.warmup_steps == 20_000
    assert config.adversarial == (name in ("bwe_s", "bwe_m"))
    assert (config.losses.mel > 0) == (name == "bwe_m_l1_mel")
    assert config.condition.channels == (64 if name == "m2s_m" else 0)
    if name == "m2s_m":
        assert (config.losses.kl, config.condition.blocks) == (5e-4, 2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents shaped like the house autoencoder's, long enough for windows of 4 s."""
    spec = load_autoencoder("house").spec
    path = write_cache(
        tmp_path_factory.mktemp("house") / "cache",
        train_frames=LENGTHS["train"],
        valid_frames=LENGTHS["valid"],
        spec=spec,
    )
    for split in ("train", "valid"):
        for stream, gain in (("left", 1.5), ("right", 0.5)):  # mono is neither: there is something to learn
            file = data_file(path / "shards" / split, stream)
            values = np.fromfile(file, dtype="<f2", count=sum(LENGTHS[split]) * spec.channels)
            np.memmap(file, dtype="<f2", mode="r+", shape=values.shape)[:] = values * np.float16(gain)
    return path


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in PAPER), "bwe_s_l1"])
def test_a_twin_for_less_than_the_paper_s_scale_trains_twenty_steps(name: str, cache: Path, tmp_path: Path) -> None:
    from reencoder_trainer.training.train import train

    steps = ["steps=20", "warmup_steps=5", "valid_every=10", "valid_windows=4", "batch_size=2", "log_every=5"]
    settings = [f"cache={cache}", f"out={tmp_path / 'run'}", *steps]
    twin = {"m2s_m": "m2s_s"}.get(name, name)  # M takes too long on two cores
    machine = "cpu" if (ROOT / "train" / f"{twin}_cpu.yaml").exists() else "gpu"
    config = load_config(ROOT / "train" / f"{twin}_{machine}.yaml", TrainConfig, settings)
    paper = load_config(ROOT / "train" / f"{'bwe_s' if name == 'bwe_s_l1' else name}.yaml", TrainConfig)
    assert (config.task, config.condition) == (paper.task, paper.condition)
    assert config.size == ("S" if twin != name else paper.size)
    if name != "bwe_s_l1":
        assert config.losses == paper.losses
    train(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    half, end = (row["l1"] for row in rows if row["kind"] == "valid")
    assert end < half
