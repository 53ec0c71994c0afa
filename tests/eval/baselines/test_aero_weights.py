"""Files of AERO's weights, ours and the original program's; no code in them is run."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from reencoder_eval.baselines.aero.checkpoint import load_aero_weights, save_aero
from reencoder_eval.baselines.aero.model import Aero
from reencoder_pipeline.errors import CheckpointError
from tiny_aero import TINY, noise

# Files


def test_our_file_gives_the_model_back(tiny: Aero, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (first, second):
        save_aero(path, tiny, training={"steps": 3})
    assert first.read_bytes() == second.read_bytes()
    loaded, audio = load_aero_weights(first), noise(1, 1, 300)
    assert loaded.config == TINY
    assert not loaded.training
    assert torch.equal(loaded(audio), tiny(audio))


def test_damaged_and_foreign_files_are_refused(tiny: Aero, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_aero(path, tiny, training={})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for name, damaged, message in (
        ("flipped.safetensors", bytes(content), "damaged"),
        ("short.safetensors", bytes(content[:1000]), "damaged"),
        ("text.th", b"no checkpoint", "cannot be read"),
        ("ours.th", bytes(content), "cannot be read"),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=message):
            load_aero_weights(tmp_path / name)
    for name in ("none.safetensors", "none.th"):
        with pytest.raises(CheckpointError, match=r"no such file|does not exist"):
            load_aero_weights(tmp_path / name)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of a baseline"):
        load_aero_weights(tmp_path / "other.safetensors")


@pytest.fixture
def foreign() -> Iterator[Callable[[str, str], type]]:
    """Classes of packages that are not installed; gone when they have been pickled, as on the reader's machine."""
    made: list[str] = []

    def make(module: str, name: str) -> type:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            made.append(".".join(parts[:end]))
            sys.modules.setdefault(made[-1], ModuleType(made[-1]))
        cls = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, cls)
        return cls

    yield make
    for module in made:
        sys.modules.pop(module, None)


def original_package(model: Aero, make: Callable[[str, str], type]) -> dict[str, Any]:
    """In the layout of the original program, with everything that it leaves in its files."""
    config = model.config
    strides, setting = make("omegaconf.listconfig", "ListConfig")(), make("omegaconf.nodes", "AnyNode")()
    strides.__dict__["_content"] = [setting, setting]
    metadata = make("omegaconf.base", "ContainerMetadata")()
    metadata.__dict__.update(ref_type=Any, object_type=dict, key=None, values=defaultdict(dict, {"a": {"b": 1}}))
    args = make("omegaconf.dictconfig", "DictConfig")()
    args.__dict__.update(_metadata=metadata, experiment={"lr": 3e-4, "names": {"set"}}, path=Path("x"))
    settings = {"nfft": config.n_fft, "hop_length": config.hop, "channels": config.channels, "strides": strides}
    settings |= {"lr_sr": config.low_rate, "hr_sr": config.high_rate, "freq_emb": 0.2, "act_func": "snake"}
    generator = {
        "class": make("src.models.aero", "Aero"),
        "args": (),
        "kwargs": settings,
        "state": OrderedDict(model.state_dict()),
    }
    discriminator = {"class": make("src.models.discriminators", "Discriminator"), "state": {"w": torch.zeros(3)}}
    return {
        "models": {"generator": generator, "msd_melgan": discriminator},
        "optimizers": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(5, dtype=torch.float64)}}}},
        "history": [{"train": {"loss": 1.0}}],
        "best_states": {"generator": model.state_dict()},
        "args": args,
    }


def test_a_file_of_the_original_program_is_read(
    tiny: Aero, tmp_path: Path, foreign: Callable[[str, str], type]
) -> None:
    path = tmp_path / "checkpoint.th"
    torch.save(original_package(tiny, foreign), path)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"omegaconf", "src"}]:
        del sys.modules[name]
    loaded, audio = load_aero_weights(path), noise(1, 1, 300)
    assert loaded.config == TINY
    assert torch.equal(loaded(audio), tiny(audio))
    assert not {"omegaconf", "src"} & set(sys.modules)


class Evil:
    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("place", ["args", "state", "everything"])
def test_code_in_a_file_is_not_run(tiny: Aero, tmp_path: Path, foreign: Callable[[str, str], type], place: str) -> None:
    path, trace = tmp_path / "checkpoint.th", tmp_path / "it_ran"
    package: Any = original_package(tiny, foreign)
    for index, evil in enumerate((Evil(os.system, f"touch {trace}"), Evil(eval, f"open({str(trace)!r}, 'w')"))):
        if place == "args":
            package["args"] = evil
        elif place == "state":
            package["models"]["generator"]["state"]["freq_emb.embedding.weight"] = evil
        torch.save(evil if place == "everything" else package, path)
        with pytest.raises(CheckpointError, match="names code that no checkpoint needs") as caught:
            load_aero_weights(path)
        assert str(caught.value.value).endswith(("system", "eval")[index])
        assert not trace.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - the trap works: it does run when it is let
        torch.load(path, weights_only=False)["models"]["none"]
    assert trace.exists()


def test_foreign_code_is_inert_and_is_no_tensor(
    tiny: Aero, tmp_path: Path, foreign: Callable[[str, str], type]
) -> None:
    package = original_package(tiny, foreign)
    package["models"]["generator"]["state"]["freq_emb.embedding.weight"] = foreign("src.models", "Weight")()
    torch.save(package, tmp_path / "checkpoint.th")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_aero_weights(tmp_path / "checkpoint.th")


def change_state(package: dict[str, Any], name: str, tensor: Tensor | None) -> None:
    state = package["models"]["generator"]["state"]
    del state[name]
    if tensor is not None:
        state[name] = tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda package: package.pop("models"), "holds no generator"),
        (lambda package: package["models"]["generator"].update(kwargs=3), "holds no generator"),
        (lambda package: package["models"]["generator"]["kwargs"].update(norm_groups=2), "settings that are not"),
        (lambda package: package["models"]["generator"]["kwargs"].pop("lr_sr"), "no 'lr_sr'"),
        (lambda package: package["models"]["generator"]["kwargs"].update(lr_sr=0), "sizes"),
        (lambda package: change_state(package, "encoder.0.pre_conv.weight", None), "is not the Aero"),
        (lambda package: change_state(package, "encoder.1.conv.bias", torch.zeros(3)), "do not fit"),
        (lambda package: change_state(package, "encoder.1.conv.bias", None), "do not fit"),
    ],
)
def test_another_models_file_is_refused(
    tiny: Aero,
    tmp_path: Path,
    foreign: Callable[[str, str], type],
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    package = original_package(tiny, foreign)
    change(package)
    torch.save(package, tmp_path / "checkpoint.th")
    with pytest.raises(CheckpointError, match=message):
        load_aero_weights(tmp_path / "checkpoint.th")
