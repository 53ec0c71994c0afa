"""Which precision a training runs in, and that its run keeps it on whatever machine it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import reencoder_pipeline.training.autocast as precision_module
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.training.autocast import Autocast, autocast, resolved
from tiny_cache import write_cache
from training_run import run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "device", "native", "expected"),
    [
        ("auto", CPU, True, "bfloat16"),
        ("auto", CPU, False, "float32"),
        ("auto", CUDA, False, "bfloat16"),
        ("float32", CPU, True, "float32"),
        ("bfloat16", CPU, False, "bfloat16"),
    ],
)
def test_auto_is_what_the_device_multiplies(
    asked: Autocast, device: torch.device, native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_module, "multiplies_bfloat16", lambda: native)
    assert resolved(asked, device) == expected


@pytest.mark.parametrize(("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_matrix_products_run_in_it(precision: Autocast, expected: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_a_run_keeps_what_auto_came_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, out = write_cache(tmp_path / "cache"), tmp_path / "run"
    monkeypatch.setattr(precision_module, "multiplies_bfloat16", lambda: False)
    run(cache, out, steps=4)
    assert yaml.safe_load((out / "config.yaml").read_text())["precision"] == "float32"
    monkeypatch.setattr(precision_module, "multiplies_bfloat16", lambda: True)
    with pytest.raises(ConfigError, match="precision"):
        run(cache, out, steps=8, resume=True)
    run(cache, out, steps=8, resume=True, precision="float32")
