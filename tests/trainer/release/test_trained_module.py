"""Module files: round trips to the bit, what a released module promises, and damage that is always noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.normalisation import Scaling
from reencoder_trainer.trained_module import TrainedModule, load_module, save_module
from trained_modules import CONDITIONED, PLAIN, SPEC, latents, make_trained


@pytest.fixture(scope="module", params=[PLAIN, CONDITIONED], ids=["plain", "conditioned"])
def condition(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def file(condition: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module file, not to be changed."""
    path = tmp_path_factory.mktemp("module") / "module.safetensors"
    save_module(make_trained(condition), path)
    return path


def assert_same_module(loaded: TrainedModule, saved: TrainedModule) -> None:
    assert (loaded.task, loaded.spec, loaded.training) == (saved.task, saved.spec, saved.training)
    assert torch.equal(loaded(latents()), saved(latents()))
    assert (loaded.encoder is None) == (saved.encoder is None)
    if saved.encoder is not None:
        oracle = saved.posterior(latents(8))
        for one, other in zip(loaded.posterior(latents(8)), oracle, strict=True):
            assert torch.equal(one, other)
        assert torch.equal(loaded(latents(), oracle.mean), saved(latents(), oracle.mean))


def test_round_trip_to_the_bit(condition: int, file: Path) -> None:
    loaded, saved = load_module(file), make_trained(condition)
    assert_same_module(loaded, saved)
    for one, other in ((loaded.module, saved.module), (loaded.encoder, saved.encoder)):
        if one is not None and other is not None:
            assert not one.training
            assert one.state_dict().keys() == other.state_dict().keys()
            assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert loaded.num_parameters == saved.num_parameters
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(("task", "output"), [("bwe", "residual"), ("m2s", "difference"), ("m2s", "panning")])
def test_the_shape_of_the_module_survives(task: str, output: str, tmp_path: Path) -> None:
    saved = make_trained(task=task, output=output, response_frames=5)
    save_module(saved, tmp_path / "m")
    loaded = load_module(tmp_path / "m")
    assert (loaded.module.output, loaded.module.response_frames) == (output, 5)
    assert_same_module(loaded, saved)


def test_weights_in_float16_halve_the_file_and_are_used_in_float32(condition: int, file: Path, tmp_path: Path) -> None:
    saved = make_trained(condition)
    save_module(saved, tmp_path / "half", weights=torch.float16)
    loaded = load_module(tmp_path / "half")
    assert all(
        tensor.dtype == torch.float32 and torch.equal(tensor, saved.module.state_dict()[name].half().float())
        for name, tensor in loaded.module.state_dict().items()
    )
    assert torch.equal(loaded.normalisation.inputs.std, saved.normalisation.inputs.std), "statistics are not rounded"
    torch.testing.assert_close(loaded(latents()), saved(latents()), rtol=1e-2, atol=1e-2)
    assert (loaded.encoder is None) == (not condition)
    assert file.stat().st_size - (tmp_path / "half").stat().st_size >= 2 * saved.num_parameters


def test_what_the_encoder_is_given_survives(tmp_path: Path) -> None:
    saved = make_trained(3)
    encoder = ConditionEncoder(8, 3, blocks=1, width=8, levels=True).eval()
    save_module(replace(saved, encoder=encoder), tmp_path / "m")
    loaded = load_module(tmp_path / "m")
    assert loaded.encoder is not None
    assert loaded.encoder.levels
    targets = torch.randn(2, 8, 30)
    expected = encoder(saved.normalisation.targets.apply(targets)).mean
    assert torch.equal(loaded.posterior(targets).mean, expected)


def test_equal_modules_give_equal_bytes(condition: int, file: Path, tmp_path: Path) -> None:
    save_module(make_trained(condition), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_the_header_explains_the_file_to_other_programs(condition: int, file: Path) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["reencoder"])
    assert header["config"] == {"in_channels": 4, "out_channels": 8, "blocks": 1, "width": 8,
        "output": "direct", "condition_channels": condition, "response_frames": None,
    }  # fmt: skip
    assert header["condition_blocks"] == (2 if condition else 0)
    assert header["spec"] == SPEC.to_dict()
    assert header["task"] == {"name": "m2s", "inputs": ["mono"], "targets": ["left", "right"]}
    assert header["training"]["steps"] == 7


def test_it_takes_and_gives_raw_latents() -> None:
    trained = make_trained()
    raw = latents().half()
    scaled = (raw.float() - trained.normalisation.inputs.mean) / trained.normalisation.inputs.std
    with torch.no_grad():
        expected = trained.module(scaled) * trained.normalisation.targets.std + trained.normalisation.targets.mean
    output = trained(raw)
    assert (output.shape, output.dtype, output.requires_grad) == ((2, 8, 11), torch.float32, False)
    torch.testing.assert_close(output, expected)


def test_the_oracle_s_condition_comes_from_raw_targets() -> None:
    trained, targets = make_trained(CONDITIONED), latents(8).half()
    assert trained.encoder is not None
    scaled = (targets.float() - trained.normalisation.targets.mean) / trained.normalisation.targets.std
    with torch.no_grad():
        expected = trained.encoder(scaled)
    posterior = trained.posterior(targets)
    assert posterior.mean.shape == (2, CONDITIONED)
    assert not posterior.mean.requires_grad
    torch.testing.assert_close(posterior.mean, expected.mean)
    torch.testing.assert_close(posterior.log_variance, expected.log_variance)


def test_without_a_condition_it_gets_the_prior_s_mean() -> None:
    trained = make_trained(CONDITIONED)
    assert torch.equal(trained(latents()), trained(latents(), torch.zeros(2, CONDITIONED)))
    assert torch.equal(trained(latents().half()), trained(latents().half(), torch.zeros(1, CONDITIONED)))
    assert not torch.allclose(trained(latents()), trained(latents(), torch.ones(2, CONDITIONED)))


def test_a_condition_for_all_or_one_for_each() -> None:
    trained = make_trained(CONDITIONED)
    one, other = torch.randn(2, 1, CONDITIONED, generator=torch.Generator().manual_seed(0))
    for_all, for_each = trained(latents(), one), trained(latents(), torch.cat([one, other]))
    torch.testing.assert_close(for_each[0], for_all[0])
    assert not torch.allclose(for_each[1], for_all[1])
    torch.testing.assert_close(for_each[1], trained(latents(), other)[1])


def test_the_prior_is_a_function_of_the_seed() -> None:
    trained = make_trained(CONDITIONED)
    assert trained.prior(500, seed=3).shape == (500, CONDITIONED)
    assert torch.equal(trained.prior(5, seed=3), make_trained(CONDITIONED).prior(5, seed=3))
    assert not torch.equal(trained.prior(5, seed=3), trained.prior(5, seed=4))
    assert trained.prior(500, seed=3).mean().abs() < 0.1  # 0.026 is its deviation
    assert trained.prior(500, seed=3).std().item() == pytest.approx(1, abs=0.1)


def test_a_module_without_condition_takes_none_and_has_none() -> None:
    trained = make_trained(PLAIN)
    with pytest.raises(CheckpointError, match=r"takes no condition\n  found: a condition \(1, 3\)"):
        trained(latents(), torch.zeros(1, 3))
    with pytest.raises(CheckpointError, match="no condition encoder"):
        trained.posterior(latents(8))
    with pytest.raises(CheckpointError, match="has no prior"):
        trained.prior(1, seed=0)


def test_the_encoder_counts_as_parameters() -> None:
    plain, conditioned = make_trained(PLAIN), make_trained(CONDITIONED)
    assert conditioned.encoder is not None
    assert plain.num_parameters == plain.module.num_parameters
    assert conditioned.num_parameters == conditioned.module.num_parameters + conditioned.encoder.num_parameters


def test_it_moves_as_a_whole(condition: int) -> None:
    moved = make_trained(condition).to("meta")
    tensors = [*moved.module.parameters(), *(moved.encoder.parameters() if moved.encoder else ())]
    for scaling in (moved.normalisation.inputs, moved.normalisation.targets):
        tensors += [scaling.mean, scaling.std]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.encoder is not None) == (condition > 0)
    assert (moved.task, moved.spec, moved.training) == (get_task("m2s"), SPEC, make_trained().training)


def test_a_channel_that_never_varies_is_not_divided_by_zero() -> None:
    class Constant:
        mean, std = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 4.0])

    scaling = Scaling.of_streams({"mono": Constant}, ["mono"])  # type: ignore[dict-item]
    assert scaling.apply(torch.tensor([[[2.0], [5.0]]])).flatten().tolist() == [0.0, 1.0]


def test_latents_of_another_autoencoder_are_refused_by_name(file: Path) -> None:
    with pytest.raises(Exception, match=r"hop: 1024 here, 2048 there"):
        load_module(file).spec.require_same(replace(SPEC, hop=2048), where="cache", remedy="another cache")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(
    share: float, bit: int, condition: int, file: Path, tmp_path: Path
) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    (tmp_path / "flipped").write_bytes(content)
    try:
        loaded = load_module(tmp_path / "flipped")
    except CheckpointError:
        return
    assert_same_module(loaded, make_trained(condition))  # for example one blank for another in the header's padding


def test_a_flipped_bit_in_any_tensor_is_refused(condition: int, file: Path, tmp_path: Path) -> None:
    """The first byte of each: weights of the module and of the encoder, means and deviations."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    names = header.keys() - {"__metadata__"}
    expected = {"module", "normalisation", *(["condition"] if condition else [])}
    assert {name.split(".")[0] for name in names} == expected
    for name in names:
        flipped = bytearray(content)
        flipped[start + header[name]["data_offsets"][0]] ^= 1
        (tmp_path / "flipped").write_bytes(flipped)
        with pytest.raises(CheckpointError, match="damaged"):
            load_module(tmp_path / "flipped")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", {"name": "m2s", "inputs": ["mono"], "targets": ["right", "left"]}),
        ("spec", {**SPEC.to_dict(), "hop": 2048}),
        ("training", {"steps": 8}),
        ("condition_blocks", 1),
    ],
)
def test_a_changed_header_is_noticed(key: str, value: object, file: Path, tmp_path: Path) -> None:
    with safetensors.safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["reencoder"])
    assert header[key] != value
    for changed in (header, header | {key: value}):
        safetensors.torch.save_file(
            safetensors.torch.load_file(file), tmp_path / "m", metadata={"reencoder": json.dumps(changed)}
        )
        if changed is header:
            load_module(tmp_path / "m")  # it is the change that is refused, not the other program
            continue
        with pytest.raises(CheckpointError, match="damaged"):
            load_module(tmp_path / "m")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_an_error_with_a_remedy(share: float, file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="try: "):
        load_module(tmp_path / "cut")


def test_foreign_files_are_errors(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not a latent module"):
        load_module(tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="the file with a latent module does not exist"):
        load_module(tmp_path / "absent")
    with pytest.raises(CheckpointError):
        load_module(tmp_path)


@pytest.mark.parametrize("version", [1, 3])
def test_a_file_of_another_version_is_an_error(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reencoder_trainer.trained_module.MODULE_FORMAT", version)
    save_module(make_trained(), tmp_path / "m")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=rf"format {version}; this program reads format 2"):
        load_module(tmp_path / "m")
