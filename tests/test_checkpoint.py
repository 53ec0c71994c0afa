"""Module files and training states: round trips, and damage that is always noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reencoder_pipeline.durable import write_checkpoint
from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.checkpoint import TrainingState, load_state, save_state
from reencoder_trainer.latent_module import LatentModule
from reencoder_trainer.normalisation import Normalisation, Scaling
from reencoder_trainer.optimisation import make_optimizer
from reencoder_trainer.trained_module import TrainedModule, load_module, save_module

SPEC = LatentSpec("tiny", "abc", sample_rate=44100, hop=1024, channels=4)


def make_trained(task: str = "m2s") -> TrainedModule:
    torch.manual_seed(0)
    out_channels = 4 * len(get_task(task).targets)
    return TrainedModule(
        LatentModule(4, out_channels, blocks=1, width=8),
        get_task(task),
        SPEC,
        Normalisation(
            Scaling(torch.randn(4, 1), torch.rand(4, 1) + 0.5),
            Scaling(torch.randn(out_channels, 1), torch.rand(out_channels, 1) + 0.5),
        ),
        {"steps": 7, "seed": 0, "cache": "d1", "valid": {"l1": 0.5}},
    )


def make_state() -> TrainingState:
    module = make_trained().module
    optimizer = make_optimizer(module, weight_decay=0.1)
    module(torch.randn(2, 4, 9)).sum().backward()
    optimizer.step()
    return TrainingState(
        step=3,
        learner={"estimator": module.state_dict(), "optimizer": optimizer.state_dict()},
        pending=[{"l1": 0.25}],
        valid={"l1": 0.5},
        spec=SPEC.to_dict(),
        cache="d1",
    )


@pytest.fixture(scope="module")
def module_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("module") / "module.safetensors"
    save_module(make_trained(), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def state_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "state.pt"
    save_state(make_state(), path)
    return path.read_bytes()


def assert_same_module(loaded: TrainedModule, saved: TrainedModule) -> None:
    assert (loaded.task, loaded.spec, loaded.training) == (saved.task, saved.spec, saved.training)
    latents = torch.randn(2, 4, 11)
    assert torch.equal(loaded(latents), saved(latents))


def test_module_round_trip(tmp_path: Path) -> None:
    trained = make_trained()
    save_module(trained, tmp_path / "m.safetensors")
    loaded = load_module(tmp_path / "m.safetensors")
    assert_same_module(loaded, trained)
    assert not loaded.module.training
    assert loaded.num_parameters == trained.module.num_parameters
    assert list(tmp_path.iterdir()) == [tmp_path / "m.safetensors"]


def test_trained_module_takes_and_gives_raw_latents() -> None:
    trained = make_trained()
    latents = (torch.randn(2, 4, 11) * 5 + 2).half()
    scaled = (latents.float() - trained.normalisation.inputs.mean) / trained.normalisation.inputs.std
    with torch.no_grad():
        expected = trained.module(scaled) * trained.normalisation.targets.std + trained.normalisation.targets.mean
    output = trained(latents)
    assert (output.shape, output.dtype, output.requires_grad) == ((2, 8, 11), torch.float32, False)
    torch.testing.assert_close(output, expected)


def test_equal_modules_give_equal_bytes(tmp_path: Path, module_bytes: bytes) -> None:
    save_module(make_trained(), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == module_bytes


def test_the_header_explains_the_file_to_other_programs(module_bytes: bytes) -> None:
    length = int.from_bytes(module_bytes[:8], "little")
    header = json.loads(json.loads(module_bytes[8 : 8 + length])["__metadata__"]["reencoder"])
    assert header["config"] == {"in_channels": 4, "out_channels": 8, "blocks": 1, "width": 8,
        "output": "direct", "condition_channels": 0, "response_frames": None,
    }  # fmt: skip
    assert header["spec"] == SPEC.to_dict()
    assert header["task"] == {"name": "m2s", "inputs": ["mono"], "targets": ["left", "right"]}
    assert header["training"]["steps"] == 7


def test_a_channel_that_never_varies_is_not_divided_by_zero() -> None:
    class Constant:
        mean, std = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 4.0])

    scaling = Scaling.of_streams({"mono": Constant}, ["mono"])  # type: ignore[dict-item]
    assert scaling.apply(torch.tensor([[[2.0], [5.0]]])).flatten().tolist() == [0.0, 1.0]


def test_latents_of_another_autoencoder_are_refused_by_name(module_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(module_bytes)
    with pytest.raises(Exception, match=r"hop: 1024 here, 2048 there"):
        load_module(tmp_path / "m").spec.require_same(replace(SPEC, hop=2048), where="cache", remedy="another cache")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_in_a_module_is_noticed_or_harmless(
    data: st.DataObject, module_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "flipped"
    path.write_bytes(flipped(module_bytes, data))
    try:
        loaded = load_module(path)
    except CheckpointError:
        return
    assert_same_module(loaded, make_trained())  # for example one blank for another in the padding of the header


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_in_a_state_is_noticed_or_harmless(
    data: st.DataObject, state_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "flipped"
    path.write_bytes(flipped(state_bytes, data))
    try:
        loaded = load_state(path)
    except CheckpointError:
        return
    assert_same_state(loaded, make_state())  # for example in a date of the archive


def flipped(content: bytes, data: st.DataObject) -> bytes:
    position = data.draw(st.integers(0, len(content) - 1), label="byte")
    bit = data.draw(st.integers(0, 7), label="bit")
    return content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :]


def assert_same_state(loaded: TrainingState, saved: TrainingState) -> None:
    for name in ("step", "pending", "valid", "spec", "cache"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.module.keys() == saved.module.keys()
    assert all(torch.equal(loaded.module[name], saved.module[name]) for name in saved.module)
    assert loaded.optimizer["param_groups"] == saved.optimizer["param_groups"]
    for index, moments in saved.optimizer["state"].items():
        assert all(torch.equal(loaded.optimizer["state"][index][name], moment) for name, moment in moments.items())


def test_state_round_trip(tmp_path: Path) -> None:
    state = make_state()
    save_state(state, tmp_path / "state.pt")
    assert_same_state(load_state(tmp_path / "state.pt"), state)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_errors_with_a_remedy(
    share: float, module_bytes: bytes, state_bytes: bytes, tmp_path: Path
) -> None:
    for content, load in ((module_bytes, load_module), (state_bytes, load_state)):
        (tmp_path / "cut").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CheckpointError, match="remedy"):
            load(tmp_path / "cut")


def test_foreign_files_are_errors(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not a latent module"):
        load_module(tmp_path / "foreign")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not one of this program"):
        load_state(tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="no such module file"):
        load_module(tmp_path / "absent")
    with pytest.raises(CheckpointError):
        load_module(tmp_path)


def test_files_of_another_version_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reencoder_trainer.checkpoint.MODULE_FORMAT", 2)
    monkeypatch.setattr("reencoder_trainer.checkpoint.STATE_FORMAT", 2)
    save_module(make_trained(), tmp_path / "module")
    save_state(make_state(), tmp_path / "state")
    monkeypatch.undo()
    for load, name in ((load_module, "module"), (load_state, "state")):
        with pytest.raises(CheckpointError, match=r"format 2; this program reads format 1"):
            load(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, b"old")

    def fail(_: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("reencoder_pipeline.durable.sync", fail)
    with pytest.raises(CheckpointError, match="no space left\n  remedy: make room"):
        write_checkpoint(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
