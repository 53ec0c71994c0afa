"""An evaluation that takes a second, and a finished run of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import reencoder_eval.evaluate as evaluation
from reencoder_eval.cli.evaluate import request_of
from reencoder_eval.config import EvalConfig
from reencoder_eval.run_systems import Evaluation
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from tiny_evaluation import CLIPS, LISTENING, RATE, Evaluate, write_module


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number in range(2):
        random = np.random.default_rng(number)
        audio = 0.2 * random.standard_normal((round(2.5 * RATE), 2)) * random.uniform(0.2, 1.0, size=(1, 2))
        soundfile.write(str(folder / f"song {number}.wav"), audio, RATE)
    return folder


@pytest.fixture(scope="module")
def autoencoder(tiny_autoencoder: Path) -> Autoencoder:
    return load_autoencoder(str(tiny_autoencoder))


@pytest.fixture(scope="module")
def module(autoencoder: Autoencoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_module(tmp_path_factory.mktemp("module") / "module.safetensors", autoencoder.spec)


@pytest.fixture(scope="module")
def settings(songs: Path, tiny_autoencoder: Path, module: Path) -> dict[str, Any]:
    return {
        "source": str(songs),
        "split": None,
        "autoencoder": str(tiny_autoencoder),
        "modules": [{"label": "S <1>", "path": str(module)}],
        "num_clips": CLIPS,
        "clip_seconds": 1.0,
        "listening_clips": LISTENING,
        "workers": 0,
    }


@pytest.fixture(scope="module")
def evaluate(settings: dict[str, Any]) -> Evaluate:
    def run(out: Path, **changes: Any) -> Evaluation:
        config = EvalConfig.model_validate({**settings, **changes, "out": out})
        return evaluation.evaluate(request_of(config))

    return run


@pytest.fixture(scope="module")
def finished(evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. Not to be changed."""
    out = tmp_path_factory.mktemp("eval") / "run"
    evaluate(out)
    return out


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves its time where the page is not what is tested."""
    monkeypatch.setattr(evaluation, "write_report", lambda run: run)
