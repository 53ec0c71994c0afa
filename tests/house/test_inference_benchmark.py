"""The benchmark of inference on tiny modules: that its rows are calls of one module and its ratios add up."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reencoder_trainer.module.latent_module import Size
from tiny_cache import SPEC

CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    found: Any = importlib.import_module("inference")
    monkeypatch.setattr(found, "SIZES", {"S": Size(blocks=1, width=16), "M": Size(blocks=2, width=16)})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("size", ["S", "M2S"])
def test_onnxruntime_is_timed_on_the_same_module(benchmark: Any, size: str) -> None:
    pytest.importorskip("onnxruntime")
    reencoder = benchmark.random_module(size, SPEC)
    calls = benchmark.module_calls({size: reencoder}, 21, compiled=False, device=CPU)
    assert set(calls) == {size, f"{size}, onnxruntime"}
    expected, (found,) = calls[size](), calls[f"{size}, onnxruntime"]()
    assert expected.shape == (1, SPEC.channels * (2 if size == "M2S" else 1), 21)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_ratios_are_those_of_the_timings(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds: Any = importlib.import_module("rounds")
    step = {"S": 0.002, "S, onnxruntime": 0.001, "Aero": 0.3, "MusicHiFi-BWE": 0.1}

    def timings(rows: Mapping[str, Any], plan: Any) -> dict[str, list[Any]]:
        return {name: [rounds.Timing(step[name])] for name in rows}

    linear, audio = nn.Linear(8, 8), torch.zeros(1, 8)
    others = {name: (lambda: linear(audio), linear, audio) for name in ("Aero", "MusicHiFi-BWE")}
    monkeypatch.setattr(benchmark, "interleaved", timings)
    monkeypatch.setattr(benchmark, "baseline_calls", lambda length, device: others)
    monkeypatch.setattr(benchmark, "onnx_call", lambda size, reencoder, latents: {f"{size}, onnxruntime": lambda: None})
    options = argparse.Namespace(length=0.5, no_compile=True, quick=False)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(benchmark, "BATCH_SECONDS", 1)
        benchmark.print_alone({"S": benchmark.random_module("S", SPEC)}, options, None, device=CPU)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("S  "))
    assert row.split()[1:3] == ["2.00", "250.0"]  # ms, and 0.5 s of audio in 2 ms
    assert row.split()[-2:] == ["150x", "50x"]
    assert "S: at least 50 times faster; goal 100: NOT met" in lines


def test_a_stream_is_timed_with_the_latency_it_has(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.no_grad():
        benchmark.print_streams("S", SPEC, benchmark.Plan(seconds=0.0, rounds=1, steps=1), device=CPU)
    lines = capsys.readouterr().out.splitlines()
    assert any("latency 3 frames" in line for line in lines)  # one block with a kernel of 7
    assert sum(line.startswith("chunks of") for line in lines) == len(benchmark.CHUNKS)
