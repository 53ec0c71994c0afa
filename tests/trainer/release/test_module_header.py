"""Module files from strangers: whatever one says, the answer is a module or a CheckpointError, at once."""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from changed_module import Change, changed_module, read_parts, write_parts
from reencoder_pipeline.errors import CheckpointError
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.trained_module import load_module, save_module
from trained_modules import latents, make_trained

DEEP = json.loads("[" * 150 + "]" * 150)
SECONDS = 5  # of processor time, for what takes milliseconds


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "module.safetensors"
    save_module(make_trained(), path)
    return path


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conditioned") / "module.safetensors"
    save_module(make_trained(3), path)
    return path


def set_config(**values: object) -> Change:
    return lambda header, tensors: header["config"].update(values)


def set_part(part: str, **values: object) -> Change:
    return lambda header, tensors: header[part].update(values)


def set_header(**values: object) -> Change:
    return lambda header, tensors: header.update(values)


def without(part: str | None, key: str) -> Change:
    return lambda header, tensors: (header[part] if part else header).pop(key)


def set_tensor(name: str, value: Tensor | None) -> Change:
    def change(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


def convert(name: str, kind: torch.dtype) -> Change:
    return lambda header, tensors: tensors.update({name: tensors[name].to(kind)})


STD, MEAN = "normalisation.inputs.std", "normalisation.targets.mean"
NONSENSE: dict[str, Change] = {
    # sizes that the tensors do not bear out
    "a billion blocks": set_config(blocks=10**9),
    "more blocks": set_config(blocks=2),
    "10**30 blocks": set_config(blocks=10**30),
    "no blocks": set_config(blocks=0),
    "width 40,000": set_config(width=40_000),
    "width 2**40": set_config(width=2**40),
    "negative width": set_config(width=-8),
    "channels in": set_config(in_channels=2**30),
    "channels out": set_config(out_channels=8_000_000),
    "channels of a condition": set_config(condition_channels=10**9),
    "blocks of a condition": set_header(condition_blocks=10**9),
    "frames of the response": set_config(response_frames=2**62 + 1),
    "even frames of the response": set_config(response_frames=2),
    # types
    "blocks: true": set_config(blocks=True),
    "blocks: 1.0": set_config(blocks=1.0),
    "blocks in words": set_config(blocks="1"),
    "width: null": set_config(width=None),
    "width: a list": set_config(width=[8]),
    "condition_blocks: false": set_header(condition_blocks=False),
    "condition_levels: 0": set_header(condition_levels=0),
    "format: 2.0": set_header(format=2.0),
    "an unknown output": set_config(output="panorama"),
    "an output that does not fit": set_config(output="residual", out_channels=6),
    "config: null": set_header(config=None),
    "config: a list": set_header(config=[1, 2]),
    "training: null": set_header(training=None),
    "training: text": set_header(training="of course"),
    # keys
    "an unknown key": set_header(surprise=1),
    "an unknown key of the config": set_config(surprise=1),
    "an unknown key of the task": set_part("task", surprise=1),
    "an unknown key of the latents": set_part("spec", surprise=1),
    "no spec": without(None, "spec"),
    "no task": without(None, "task"),
    "no training": without(None, "training"),
    "no width": without("config", "width"),
    "no hop": without("spec", "hop"),
    # the latents
    "spec: null": set_header(spec=None),
    "spec: a name": set_header(spec="house"),
    "hop 0": set_part("spec", hop=0),
    "hop 2.5": set_part("spec", hop=2.5),
    "rate in words": set_part("spec", sample_rate="44100"),
    "rate 1e30": set_part("spec", sample_rate=10**30),
    "other channels": set_part("spec", channels=5),
    "stereo: both": set_part("spec", stereo="both"),
    "autoencoder: null": set_part("spec", autoencoder=None),
    "autoencoder without a name": set_part("spec", autoencoder=""),
    "autoencoder of a megabyte": set_part("spec", autoencoder="x" * 500_000),
    "autoencoder with colours": set_part("spec", autoencoder="\x1b[31mhouse"),
    "autoencoder of two lines": set_part("spec", autoencoder="house\ntry: rm"),
    "half a character": set_part("spec", autoencoder="\ud800"),
    # the task
    "task: null": set_header(task=None),
    "task: a name": set_header(task="m2s"),
    "no inputs": set_part("task", inputs=[]),
    "unknown streams": set_part("task", inputs=["centre"]),
    "streams as one text": set_part("task", targets="left"),
    "streams that are numbers": set_part("task", inputs=[0]),
    "a stream twice": set_part("task", name="x", targets=["left", "left"]),
    "an output that is an input": set_part("task", name="x", targets=["left", "mono"]),
    "right and left": set_part("task", targets=["right", "left"]),
    "a task that is a path": set_part("task", name="../../m2s"),
    "a task that is a million streams": set_part("task", name="x", inputs=["mono"] * 10_000),
    # what is nested
    "deep training": set_header(training={"a": json.loads("[" * 900 + "]" * 900)}),
    "deep task": set_header(task=DEEP),
    # the condition
    "condition_blocks without a condition": set_header(condition_blocks=1),
    "a condition without blocks": set_config(condition_channels=3),
    "levels without an encoder": set_header(condition_levels=True),
    # tensors
    "no normalisation": lambda header, tensors: [tensors.pop(name) for name in [*tensors] if "normal" in name],
    "no deviation": set_tensor(STD, None),
    "deviation of another shape": set_tensor(STD, torch.ones(4)),
    "deviation of other channels": set_tensor(STD, torch.ones(8, 1)),
    "deviation 0": set_tensor(STD, torch.tensor([[1.0], [0.0], [1.0], [1.0]])),
    "deviation below 0": set_tensor(STD, -torch.ones(4, 1)),
    "deviation NaN": set_tensor(STD, torch.full((4, 1), torch.nan)),
    "deviation without end": set_tensor(STD, torch.full((4, 1), torch.inf)),
    "mean NaN": set_tensor(MEAN, torch.full((8, 1), torch.nan)),
    "mean in float16": convert(MEAN, torch.float16),
    "mean in float64": convert(MEAN, torch.float64),
    "weights that are whole numbers": convert("module.conv_in.bias", torch.int64),
    "weights that are truth values": convert("module.conv_in.bias", torch.bool),
    "weights in float8": convert("module.conv_in.weight", torch.float8_e4m3fn),
    "complex weights": convert("module.conv_in.weight", torch.complex64),
    "weights NaN": set_tensor("module.conv_in.bias", torch.full((8,), torch.nan)),
    "a weight too few": set_tensor("module.conv_out.bias", None),
    "a weight too many": set_tensor("module.extra", torch.ones(2)),
    "a tensor of nothing known": set_tensor("optimiser", torch.ones(2)),
    "an encoder's weight": set_tensor("condition.conv_in.bias", torch.ones(8)),
    "a weight of another shape": set_tensor("module.conv_in.weight", torch.ones(8, 5, 1)),
    "an empty weight": set_tensor("module.conv_in.weight", torch.ones(0, 4, 1)),
    "a weight that is one number": set_tensor("module.conv_in.bias", torch.tensor(1.0)),
}


def refused(path: Path) -> str:
    """What the error says; at once, by the file's name, and with a remedy."""
    began = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        load_module(path)
    assert time.process_time() - began < SECONDS
    text = str(caught.value)
    assert str(path) in text
    assert "try: " in text
    assert len(text) < 3_000
    assert text.replace("\n", "").isprintable(), "nothing of a header reaches the terminal as a control character"
    return text


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_by_the_file_s_name(change: Change, plain: Path, tmp_path: Path) -> None:
    refused(changed_module(plain, tmp_path / "nonsense.safetensors", change))


@pytest.mark.parametrize(
    "change",
    [
        set_header(condition_blocks=0),
        set_header(condition_blocks=3),
        set_config(condition_channels=0),
        set_config(condition_channels=4),
        set_header(condition_levels=True),  # the head would be wider
        set_tensor("condition.head.weight", None),
    ],
)
def test_nonsense_about_the_condition_is_refused(change: Change, conditioned: Path, tmp_path: Path) -> None:
    refused(changed_module(conditioned, tmp_path / "nonsense.safetensors", change))


def test_the_error_says_which_fields_are_wrong(plain: Path, tmp_path: Path) -> None:
    def change(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        header["config"].update(width="8", surprise=1)
        header["spec"]["hop"] = 0

    said = refused(changed_module(plain, tmp_path / "m", change))
    assert all(field in said for field in ("config.width", "config.surprise", "spec.hop"))
    said = refused(changed_module(plain, tmp_path / "m", set_tensor(STD, torch.zeros(4, 1))))
    assert f"{STD} is not above 0" in said


def test_what_is_sound_still_loads(conditioned: Path, tmp_path: Path) -> None:
    """The change is what the tests above see refused, not the other program that wrote the file."""
    for change in (lambda header, tensors: None, without(None, "condition_levels"), set_part("task", name="widening")):
        loaded = load_module(changed_module(conditioned, tmp_path / "m", change))
        assert torch.equal(loaded(latents()), make_trained(3)(latents()))


def test_a_module_stays_what_it_was_when_its_file_goes(conditioned: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(conditioned.read_bytes())
    loaded = load_module(path)
    os.truncate(path, 0)  # a file that is only mapped would end the process here
    assert torch.equal(loaded(latents()), make_trained(3)(latents()))


def test_an_encoder_without_memory_has_the_same_shapes() -> None:
    with torch.device("meta"):
        shapes = ConditionEncoder(8, 3, blocks=2, width=8, levels=True).state_dict()
    real = ConditionEncoder(8, 3, blocks=2, width=8, levels=True).state_dict()
    assert {name: tensor.shape for name, tensor in shapes.items()} == {name: t.shape for name, t in real.items()}


@pytest.mark.parametrize("length", [0, 2**20 + 1, 2**40, 2**63, 2**64 - 1])
def test_the_length_of_the_header_is_not_believed(length: int, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(length.to_bytes(8, "little") + plain.read_bytes()[8:])
    refused(tmp_path / "m")


@pytest.mark.parametrize("text", ["", "null", "[]", "[1]", '"text"', "3", "{", "[" * 200_000, '{"a":' * 100_000])
def test_a_header_that_is_no_mapping(text: str, plain: Path, tmp_path: Path) -> None:
    _, tensors = read_parts(plain)
    safetensors.torch.save_file(tensors, tmp_path / "m", metadata={"reencoder": text})
    refused(tmp_path / "m")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m" if kind != "device" else Path("/dev/zero")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    refused(path)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([2**31, 2**63, 10**30, -1, 0.5, 1e308, float("nan")])
    | st.text(max_size=8)
    | st.sampled_from(["mono", "left", "right", "direct", "panning", "m2s", "bwe", "joint"])
    | st.just({})
    | st.lists(st.sampled_from(["mono", "left", "right", 1]), max_size=3)
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_edit_gives_a_module_or_an_error(data: st.DataObject, conditioned: Path, tmp_path: Path) -> None:
    header, tensors = read_parts(conditioned)
    header = copy.deepcopy(header)
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([header, header["config"], header["task"], header["spec"]]))
        if not isinstance(part, dict):
            continue
        key = data.draw(st.sampled_from(sorted(part)) | st.text(max_size=5)) if part else "x"
        if data.draw(st.integers(0, 5)) == 0:
            part.pop(key, None)
        else:
            part[key] = data.draw(VALUES)
        if not all(isinstance(header.get(name), dict) for name in ("config", "task", "spec")):
            break
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = data.draw(st.lists(st.integers(0, 9), max_size=3))
        tensors[name] = data.draw(st.sampled_from([torch.ones, torch.zeros]))(shape)
    began = time.process_time()
    try:
        loaded = load_module(write_parts(header, tensors, tmp_path / "m"))
    except CheckpointError:
        loaded = None
    assert time.process_time() - began < SECONDS
    if loaded is not None:
        assert loaded(torch.zeros(1, loaded.module.in_channels, 5)).shape == (1, loaded.module.out_channels, 5)
