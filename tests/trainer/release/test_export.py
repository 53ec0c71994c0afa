"""Export: each file read back and equal to the module at any batch and length, self-describing, or not written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from reencoder_eval.cli.apply import app
from reencoder_pipeline.errors import CacheError, CheckpointError, ConfigError
from reencoder_trainer.release import export
from reencoder_trainer.release.export import export_module
from reencoder_trainer.trained_module import TrainedModule, save_module
from trained_modules import SPEC, make_trained

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MODULES: Mapping[str, Mapping[str, Any]] = {
    "conditioned": {"condition": 3, "output": "panning"},
    "streamable": {"task": "bwe", "output": "residual", "response_frames": 5},
}


@pytest.fixture(scope="module", params=MODULES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModule, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    trained = make_trained(**MODULES[request.param])
    save_module(trained, folder / "module.safetensors")
    real = torch.randn(1, 4, 33, generator=torch.Generator().manual_seed(2)) * 5 + 2
    found = export_module(folder / "module.safetensors", folder / "out", latents=[real])
    assert [(one.format, one.path.name) for one in found] == [("onnx", "module.onnx"), ("pt2", "module.pt2")]
    assert all(one.agrees and one.difference < 5e-5 for one in found)  # random gains enlarge the rounding
    assert {path.name for path in (folder / "out").iterdir()} == {"module.onnx", "module.pt2", "module.pt2.json"}
    return trained, folder / "out"


def inputs(trained: TrainedModule, batch: int, frames: int) -> list[torch.Tensor]:
    """Of shapes that no verification has seen."""
    generator = torch.Generator().manual_seed(frames)
    raw = [torch.randn(batch, 4, frames, generator=generator) * 5 + 2]
    channels = trained.module.condition_channels
    return [*raw, torch.randn(batch, channels, generator=generator)] if channels else raw


@pytest.mark.parametrize(("batch", "frames"), [(1, 2), (2, 1), (5, 300)])
def test_raw_latents_in_raw_latents_out_at_any_shape(
    batch: int, frames: int, exported: tuple[TrainedModule, Path]
) -> None:
    trained, folder = exported
    given = inputs(trained, batch, frames)
    expected = trained(*given)
    session = onnxruntime.InferenceSession(str(folder / "module.onnx"), providers=["CPUExecutionProvider"])
    named = dict(zip(("latents", "condition"), (tensor.numpy() for tensor in given), strict=False))
    (output,) = session.run(["output"], named)
    torch.testing.assert_close(torch.from_numpy(output), expected, atol=1e-4, rtol=1e-4)
    program = torch.export.load(folder / "module.pt2").module()
    torch.testing.assert_close(program(*given), expected, atol=1e-4, rtol=1e-4)


def test_the_files_say_what_they_are(exported: tuple[TrainedModule, Path]) -> None:
    trained, folder = exported
    beside = json.loads((folder / "module.pt2.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "module.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(metadata[f"reencoder.{name}"]) for name in beside} == beside
    assert beside["spec"] == SPEC.to_dict()
    assert beside["task"]["name"] == trained.task.name
    assert beside["normalisation"] == "inside: raw latents in, raw latents out"
    assert {value.name: value.shape for value in session.get_inputs()} == beside["inputs"]
    assert {value.name: value.shape for value in session.get_outputs()} == beside["outputs"]


def test_the_command_compares_on_real_latents_and_says_what_it_wrote(file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones((4, 9), np.float16))
    arguments = ["export", str(tmp_path), "--out", str(tmp_path / "out"), "--format", "pt2", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--latents", str(tmp_path / "in.npy")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["agrees"]
    assert (tmp_path / "out" / "module.pt2").is_file()
    (tmp_path / "in.json").write_text(json.dumps({"spec": {**SPEC.to_dict(), "hop": 2048}, "streams": ["mono"]}))
    done = CliRunner().invoke(app, [*arguments, "--latents", str(tmp_path / "in.npy")])
    assert isinstance(done.exception, CacheError)
    assert "hop: 1024 here, 2048 there" in str(done.exception)


def test_the_command_ends_with_3_where_a_file_differs(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export._READERS, "pt2", lambda content: lambda latents: make_trained()(latents) + 1)
    done = CliRunner().invoke(app, ["export", str(file), "--out", str(tmp_path / "out"), "--format", "pt2"])
    assert done.exit_code == 3
    assert "NOT written, largest difference" in done.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_module(make_trained(), tmp_path / "module.safetensors")
    return tmp_path / "module.safetensors"


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_a_file_that_differs_is_not_written(
    wrong: float, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export._WRITERS, "pt2", lambda contract, description: b"")
    monkeypatch.setitem(export._READERS, "pt2", lambda content: lambda latents: make_trained()(latents) + wrong)
    (found,) = export_module(file, tmp_path / "out", formats=["pt2"])
    assert not found.agrees
    assert not found.difference < 0.3  # 0.5 over the targets' deviations, 0.5 to 1.5
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_said_before_the_work(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"format is unknown[\s\S]*tflite[\s\S]*choose from: onnx, pt2"):
        export_module(file, tmp_path, formats=["tflite"])
    with pytest.raises(CheckpointError, match=r"takes latents \(batch, 4, frames\)\n  found: \(1, 5, 9\)"):
        export_module(file, tmp_path, latents=[torch.zeros(1, 5, 9)])
    with pytest.raises(CheckpointError, match="the file with a latent module does not exist"):
        export_module(tmp_path / "absent", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"needs packages[\s\S]*onnxscript[\s\S]*reencoder\[export\]"):
        export_module(file, tmp_path, formats=["onnx"])
