"""Training states: round trips, and damage that is always noticed."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.stores.atomic import write_checkpoint
from reencoder_pipeline.training.state_file import write_state
from reencoder_trainer.training.optimisation import make_optimizer
from training_run import load_state

SETTINGS = {"lr": 0.1, "losses": {"mel": 1.0}}


def make_state() -> SimpleNamespace:
    """The same one at every call."""
    torch.manual_seed(0)
    estimator = nn.Sequential(nn.Conv1d(4, 8, 7), nn.GELU(), nn.Conv1d(8, 4, 1))
    optimizer = make_optimizer(estimator, weight_decay=0.1)
    estimator(torch.randn(2, 4, 9)).sum().backward()
    optimizer.step()
    return SimpleNamespace(
        step=3,
        learner={"estimator": estimator.state_dict(), "optimizer": optimizer.state_dict()},
        pending=[{"l1": 0.25}],
        valid={"l1": 0.5},
        spec={"autoencoder": "tiny", "hop": 1024},
        cache="d1",
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training state's file, not to be changed."""
    path = tmp_path_factory.mktemp("state") / "state.pt"
    write_state(path, vars(make_state()), kind="module", settings=SETTINGS)
    return path


def assert_same_state(loaded: SimpleNamespace, saved: SimpleNamespace) -> None:
    for name in ("step", "pending", "valid", "spec", "cache"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.learner.keys() == saved.learner.keys() == {"estimator", "optimizer"}
    weights, saved_weights = loaded.learner["estimator"], saved.learner["estimator"]
    assert weights.keys() == saved_weights.keys()
    assert all(torch.equal(weights[name], saved_weights[name]) for name in saved_weights)
    optimizer, saved_optimizer = loaded.learner["optimizer"], saved.learner["optimizer"]
    assert optimizer["param_groups"] == saved_optimizer["param_groups"]
    assert optimizer["state"].keys() == saved_optimizer["state"].keys()
    for index, moments in saved_optimizer["state"].items():
        assert all(torch.equal(optimizer["state"][index][name], moment) for name, moment in moments.items())


def test_round_trip_to_the_bit(file: Path) -> None:
    assert_same_state(load_state(file), make_state())
    assert list(file.parent.iterdir()) == [file]


def test_the_optimiser_goes_on_from_what_comes_back(file: Path) -> None:
    """A fused AdamW keeps its step counts in tensors of a kind of their own."""
    weights = []
    for state in (make_state(), load_state(file)):
        estimator = nn.Sequential(nn.Conv1d(4, 8, 7), nn.GELU(), nn.Conv1d(8, 4, 1))
        optimizer = make_optimizer(estimator, weight_decay=0.1)
        estimator.load_state_dict(state.learner["estimator"])
        optimizer.load_state_dict(state.learner["optimizer"])
        estimator(torch.ones(2, 4, 9)).sum().backward()
        optimizer.step()
        weights.append(estimator[0].weight)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], make_state().learner["estimator"]["0.weight"])


def test_every_flipped_bit_is_noticed(file: Path, tmp_path: Path) -> None:
    """Also in the dates of the archive, which mean nothing: the checksum is of the whole file."""
    content, path = file.read_bytes(), tmp_path / "flipped"
    places = {*range(0, len(content), 97), *range(40), *range(len(content) - 130, len(content))}
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="training state is"):
            load_state(path)


def test_a_flipped_bit_in_a_weight_is_refused(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    weight = make_state().learner["estimator"]["0.weight"].numpy().tobytes()
    assert content.count(weight) == 1
    flipped = bytearray(content)
    flipped[content.index(weight) + 2] ^= 1  # a mantissa: still a likely weight
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(CheckpointError, match=r"damaged or not one of this program\n(  found: .*\n)?  try: restore it"):
        load_state(tmp_path / "flipped")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_an_error_with_a_remedy(share: float, file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"damaged or not one of this program\n(  found: .*\n)?  try: restore it"):
        load_state(tmp_path / "cut")


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, {"reencoder_state": 2}, [1, 2], 3])
def test_a_foreign_file_is_an_error(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not one of this program"):
        load_state(tmp_path / "foreign.pt")


@pytest.mark.parametrize("version", [4, 10**30, None, "3"])
def test_a_file_of_another_version_is_an_error(
    version: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reencoder_pipeline.training.state_file.STATE_FORMAT", version)
    write_state(tmp_path / "state", vars(make_state()), kind="module", settings=SETTINGS)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=rf"format {version!r}; this program reads format 3"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize("kind", ["autoencoder", "baseline"])
def test_a_state_of_another_training_is_an_error(kind: str, tmp_path: Path) -> None:
    write_state(tmp_path / "state", vars(make_state()), kind=kind, settings=SETTINGS)
    with pytest.raises(CheckpointError, match=f"of another kind of training\n  found: '{kind}', not 'module'"):
        load_state(tmp_path / "state")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, b"old")

    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("reencoder_pipeline.stores.atomic.sync", fail)
    with pytest.raises(CheckpointError, match=r"no space left.*\n  try: make room"):
        write_checkpoint(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
