"""Run folders: what is somebody else's is refused, one training at a time works in one, only runs are removed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from reencoder_eval.config import BaselineTrainConfig
from reencoder_eval.train_baseline import train_baseline
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.autoencoders.vocos.training.train import train_autoencoder
from reencoder_pipeline.corpora.synthetic import render_clips
from reencoder_pipeline.errors import CheckpointError, ConfigError
from reencoder_pipeline.stores.own_folder import LOCK, folder_lock
from reencoder_pipeline.training.run_folder import RunFolder, opened_run, remove_run
from reencoder_trainer.config import TrainConfig
from tiny_cache import write_cache
from training_run import ROOT, environment, run, write_config

Train = Callable[..., object]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A latent cache, and a manifest of music."""
    folder = tmp_path_factory.mktemp("places")
    render_clips(folder / "clips", count=3, seconds=1.5, seed=1)
    rows = [{"path": str(path), "split": "train", "tasks": ["bwe", "m2s"]} for path in (folder / "clips").iterdir()]
    (folder / "music.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_cache(folder / "cache"), folder / "music.jsonl"


@pytest.fixture(params=["module", "autoencoder", "baseline"])
def train(request: pytest.FixtureRequest, places: tuple[Path, Path]) -> Train:
    """train(out, resume=, ...): one of the three trainings, of one step."""
    cache, music = places
    shared: dict[str, Any] = {"steps": 1, "valid_every": 0, "tensorboard": False, "threads": 1, "device": "cpu"}
    audio = {"source": str(music), "pcm": str(music.parent / "pcm"), "batch_size": 1, "excerpt_seconds": 0.2}

    def train_module(out: Path, *, resume: bool = False, **changes: Any) -> object:
        return run(cache, out, resume=resume, **{**shared, **changes})

    def train_the_autoencoder(out: Path, *, resume: bool = False, **changes: Any) -> object:
        model = {"n_fft": 512, "fine": [16, 32, 1], "coarse": [16, 32, 1], "latent_channels": 4}
        settings = {**shared, **audio, "out": str(out), "model": model, **changes}
        config = AutoencoderTrainConfig.model_validate(settings)
        return train_autoencoder(config, resume=resume, say=lambda _: None)

    def train_a_baseline(out: Path, *, resume: bool = False, **changes: Any) -> object:
        small = {"baseline": "aero", "channels": 4, "discriminator_filters": 4, "adversary_from": 9}
        config = BaselineTrainConfig.model_validate({**shared, **audio, **small, "out": out, **changes})
        return train_baseline(config, resume=resume, say=lambda _: None)

    return {"module": train_module, "autoencoder": train_the_autoencoder, "baseline": train_a_baseline}[request.param]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        {"thesis.tex": b"years"},
        {"config.yaml": b"theme: dark\n"},
        {"config.yaml": b"[1, 2]"},
        {"config.yaml": b"\xff\xfe"},
        {"state.pt": b"somebody's weights", "module.safetensors": b"x"},
        {"metrics.jsonl": b'{"kind": "train", "step": 1}\n'},
        {"notes.partial": b"x"},
        {"tensorboard/events.out.tfevents.1": b"x"},
    ],
    ids=lambda content: "+".join(content) + f" {len(next(iter(content.values())))}",
)
def test_a_folder_of_somebody_else_is_refused(
    content: dict[str, bytes], resume: bool, train: Train, tmp_path: Path
) -> None:
    for name, data in content.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(data)
    with pytest.raises(ConfigError, match="neither empty nor one that this command made") as caught:
        train(tmp_path / "out", resume=resume)
    assert tree(tmp_path / "out") == content
    assert next(iter(content)).split("/")[0] in str(caught.value)


def test_an_empty_folder_becomes_a_run_and_goes_on(train: Train, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).write_text("process 1 on a machine that has been switched off\n")
    train(tmp_path / "out")
    train(tmp_path / "out", steps=2, resume=True)
    assert not (tmp_path / "out" / LOCK).exists()
    with pytest.raises(ConfigError, match="a run is there already"):
        train(tmp_path / "out", steps=3)


def test_a_run_without_its_config_goes_on_under_its_own_settings_alone(train: Train, tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "config.yaml").unlink()
    before = tree(tmp_path)
    for change in ({"seed": 7}, {"batch_size": 2}):
        with pytest.raises(ConfigError, match=f"{next(iter(change))}: .* then, .* now") as caught:
            train(tmp_path, resume=True, steps=2, **change)
        assert "config.yaml" in str(caught.value)
    assert tree(tmp_path) == before
    train(tmp_path, resume=True, steps=2)
    assert (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("place", [0.0, 0.4, 0.999])
def test_a_flipped_bit_of_the_state_is_refused(place: float, train: Train, tmp_path: Path) -> None:
    train(tmp_path)
    content = bytearray((tmp_path / "state.pt").read_bytes())
    content[int(place * len(content))] ^= 4
    (tmp_path / "state.pt").write_bytes(content)
    before = tree(tmp_path)
    with pytest.raises(CheckpointError, match="the training state is damaged"):
        train(tmp_path, resume=True, steps=2)
    assert tree(tmp_path) == before


def test_a_second_training_is_refused_and_says_who_works_there(train: Train, tmp_path: Path) -> None:
    train(tmp_path)
    before = tree(tmp_path)
    with folder_lock(tmp_path, what="a training"):
        with pytest.raises(ConfigError, match="a training is running in this folder") as caught:
            train(tmp_path, resume=True, steps=2)
        assert f"process {os.getpid()} on " in str(caught.value)
    assert tree(tmp_path) == before
    train(tmp_path, resume=True, steps=2)


def test_another_process_that_trains_there_is_named(places: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", places[0], out, steps=10**6, valid_every=0, checkpoint_steps=1)
    line = [sys.executable, "-m", "reencoder_trainer.cli", str(config)]
    with subprocess.Popen(line, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "steps 0 to" in process.stderr.readline()
        with pytest.raises(ConfigError, match=f"found: process {process.pid} on "):
            run(places[0], out, resume=True)
        process.send_signal(signal.SIGKILL)
    run(places[0], out, resume=True, steps=1, valid_every=0)  # a killed one holds nothing


@pytest.mark.parametrize("name", [LOCK, "metrics.jsonl"])
def test_a_link_in_a_run_is_not_followed(name: str, places: tuple[Path, Path], tmp_path: Path) -> None:
    run(places[0], tmp_path / "run", steps=1)
    (tmp_path / "diary.txt").write_text("dear diary\n")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "diary.txt")
    with pytest.raises((ConfigError, CheckpointError)):
        run(places[0], tmp_path / "run", steps=2, resume=True)
    assert (tmp_path / "diary.txt").read_text() == "dear diary\n"


def test_a_pipe_in_place_of_the_lock_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(ConfigError, match="lock is no file"), folder_lock(tmp_path, what="a training"):
        pass
    assert (tmp_path / LOCK).exists()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("reencoder_pipeline.stores.own_folder.fcntl.flock", flock)
    with folder_lock(tmp_path, what="a training"):
        assert "no locks (No locks available)" in capsys.readouterr().err


def test_a_folder_can_be_locked_again_and_again_by_many_at_once(tmp_path: Path) -> None:
    """Whoever waits for a lock whose file is removed meanwhile holds none."""
    inside, most = 0, 0

    def work(_: int) -> int:
        nonlocal inside, most
        held = 0
        for _attempt in range(300):
            try:
                with folder_lock(tmp_path, what="a training"):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0)
                    inside -= 1
                    held += 1
            except ConfigError:
                continue
        return held

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, range(4))) > 4
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_run_is_removed_and_nothing_else(places: tuple[Path, Path], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "module.safetensors")
    remove_run(folder, TrainConfig)  # there is none
    run(places[0], tmp_path / "run", steps=1, tensorboard=True)
    remove_run(folder, TrainConfig)
    assert list((tmp_path / "run").iterdir()) == []

    run(places[0], tmp_path / "run", steps=1, tensorboard=True)
    (tmp_path / "run" / "thesis.tex").write_text("years")
    (tmp_path / "run" / "tensorboard" / "mine.txt").write_text("months")
    remove_run(folder, TrainConfig)
    assert tree(tmp_path / "run") == {"thesis.tex": b"years", "tensorboard/mine.txt": b"months"}
    with pytest.raises(ConfigError, match="neither empty nor"):
        remove_run(folder, TrainConfig)
    assert len(tree(tmp_path / "run")) == 2


def test_what_only_looks_like_a_run_is_not_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "module.safetensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"theme": "dark"}))
    (tmp_path / "run" / "state.pt").write_bytes(b"PK\3\4 of another program")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="neither empty nor"):
        remove_run(folder, TrainConfig)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("named", [None, "metrics.jsonl"])
def test_a_full_disk_in_a_training_names_a_file_or_the_run(tmp_path: Path, code: int, named: str | None) -> None:
    settings = {"source": "music", "pcm": "pcm", "out": str(tmp_path / "run"), "steps": 1}
    config = AutoencoderTrainConfig.model_validate(settings)
    folder = RunFolder(tmp_path / "run", "weights.safetensors")
    with (
        pytest.raises(OSError, match=named or "run") as caught,
        opened_run(folder, config, may_change=set(), resume=False),
    ):
        raise OSError(code, os.strerror(code), named)
    assert caught.value.filename == (named or str(tmp_path / "run"))
